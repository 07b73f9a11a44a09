// Packets through the switch, for its tests.
//
//     traffic echo ADDRESS                 sends every datagram back; prints "ready" first
//     traffic ask ADDRESS COUNT GAP_US     sends numbered datagrams and prints: answers, distinct ones, those that came
//                                          after a later one, and the least and the median round trip in us
//     traffic sink ADDRESS                 takes one TCP connection and prints its MB/s; prints "ready" first
//     traffic flood ADDRESS BYTES          fills one

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT 7000
#define COUNT_MAX 100000
#define PATIENCE_MS 700

static struct sockaddr_in address = { .sin_family = AF_INET };
static char buffer[1 << 16];

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static void say_ready(void)
{
	printf("ready\n");
	fflush(stdout);
}

static int echo(int fd)
{
	struct sockaddr_in from;
	if (bind(fd, (struct sockaddr *)&address, sizeof address))
		return fail("bind");
	say_ready();
	for (;;) {
		socklen_t size = sizeof from;
		ssize_t bytes = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size);
		if (bytes > 0)
			sendto(fd, buffer, bytes, 0, (struct sockaddr *)&from, size);
	}
}

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static int64_t took[COUNT_MAX];
static char seen[COUNT_MAX];
static long answers, distinct, late, latest = -1;

static void take(int fd, int patience_ms)
{
	int64_t message[2];
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	while (poll(&wait, 1, patience_ms) > 0) {
		if (recv(fd, message, sizeof message, 0) != sizeof message)
			continue;
		if (answers < COUNT_MAX)
			took[answers] = now_us() - message[1];
		answers++;
		distinct += !seen[message[0]];
		seen[message[0]] = 1;
		late += message[0] < latest;
		latest = message[0] > latest ? message[0] : latest;
	}
}

static int ask(int fd, long count, long gap_us)
{
	if (count > COUNT_MAX || connect(fd, (struct sockaddr *)&address, sizeof address))
		return fail("connect");
	for (long i = 0; i < count; i++) {
		int64_t message[2] = { i, now_us() };
		(void)!send(fd, message, sizeof message, 0);
		take(fd, 0);
		usleep(gap_us);
	}
	take(fd, PATIENCE_MS);
	qsort(took, answers, sizeof *took, by_size);
	printf("%ld %ld %ld %ld %ld\n", answers, distinct, late, (long)took[0], (long)took[answers / 2]);
	return 0;
}

static int sink(int fd)
{
	int yes = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1))
		return fail("listen");
	say_ready();
	int from = accept(fd, NULL, NULL);
	int64_t total = 0, start = now_us();
	for (ssize_t bytes; (bytes = read(from, buffer, sizeof buffer)) > 0;)
		total += bytes;
	printf("%ld\n", (long)(total / (now_us() - start + 1)));
	return 0;
}

static int flood(int fd, long left)
{
	if (connect(fd, (struct sockaddr *)&address, sizeof address))
		return fail("connect");
	for (ssize_t bytes; left > 0; left -= bytes)
		if ((bytes = write(fd, buffer, sizeof buffer)) <= 0)
			return fail("write");
	return 0;
}

int main(int words, char **word)
{
	if (words < 3 || inet_pton(AF_INET, word[2], &address.sin_addr) != 1)
		return 2;
	address.sin_port = htons(PORT);
	int stream = !strcmp(word[1], "sink") || !strcmp(word[1], "flood");
	int fd = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	if (!strcmp(word[1], "echo"))
		return echo(fd);
	if (!strcmp(word[1], "sink"))
		return sink(fd);
	if (!strcmp(word[1], "ask") && words == 5)
		return ask(fd, atol(word[3]), atol(word[4]));
	if (!strcmp(word[1], "flood") && words == 4)
		return flood(fd, atol(word[3]));
	return 2;
}
