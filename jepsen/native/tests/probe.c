// A program that does on request what a store does, for the tests of faults.c: one command a line on standard input,
// one answer a line on standard output. An error is answered by its name.
//
//     probe FILE
//
// write OFFSET BYTES CHARACTER | read OFFSET BYTES | sync | length BYTES | allocate OFFSET BYTES | size | reopen
// append BYTES CHARACTER | rename FROM TO | storm THREADS ROUNDS | wall | mono
// sleep MS | epoll MS | poll MS | futex MS | condition MS | exit
//
// A read answers in runs, as "512A 3.": 512 times A, then three zero bytes. A wait answers the bent time it took.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static int fd;

static void answer(long long result)
{
	if (result < 0)
		printf("%s\n", strerrorname_np(errno));
	else
		printf("%lld\n", result);
	fflush(stdout);
}

static void show(const unsigned char *bytes, ssize_t n)
{
	if (n < 0) {
		answer(n);
		return;
	}
	for (ssize_t i = 0, run; i < n; i += run) {
		for (run = 1; i + run < n && bytes[i + run] == bytes[i]; run++)
			;
		int plain = bytes[i] > ' ' && bytes[i] < 127;
		printf("%s%zd", i ? " " : "", run);
		if (plain)
			printf("%c", bytes[i]);
		else
			printf(bytes[i] ? "?" : ".");
	}
	printf("\n");
	fflush(stdout);
}

static long long now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static struct timespec at(clockid_t clock, long ms)
{
	long long ns = now(clock) + ms * 1000000ll;
	return (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
}

static void wait_by(const char *how, long ms)
{
	if (!strcmp(how, "sleep")) {
		struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
		nanosleep(&t, NULL);
	} else if (!strcmp(how, "epoll")) {
		struct epoll_event event;
		int set = epoll_create1(0);
		epoll_wait(set, &event, 1, ms);
		close(set);
	} else if (!strcmp(how, "poll")) {
		poll(NULL, 0, ms);
	} else if (!strcmp(how, "futex")) {
		static int word;
		struct timespec t = at(CLOCK_MONOTONIC, ms);
		syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &t, NULL, -1);
	} else {
		pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
		pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
		struct timespec t = at(CLOCK_REALTIME, ms);
		pthread_mutex_lock(&mutex);
		pthread_cond_timedwait(&condition, &mutex, &t);
		pthread_mutex_unlock(&mutex);
	}
}

// Threads that write, read back, sync and reopen at once, each in its own stretch of the file.
struct share {
	pthread_t thread;
	int number, rounds, wrong;
};

static void *storm(void *argument)
{
	struct share *share = argument;
	char wrote[1000], found[1000];
	for (int round = 0; round < share->rounds; round++) {
		int own = open(path, O_RDWR | O_CREAT, 0600);
		off_t offset = share->number * 100000l + round % 50 * 1000;
		memset(wrote, 'a' + (round + share->number) % 26, sizeof wrote);
		share->wrong += pwrite(own, wrote, sizeof wrote, offset) != sizeof wrote;
		if (round % 7 == 0)
			share->wrong += fdatasync(own) != 0;
		share->wrong += pread(own, found, sizeof found, offset) != sizeof found;
		share->wrong += memcmp(wrote, found, sizeof wrote) != 0;
		close(own);
	}
	return NULL;
}

static void start_storm(int threads, int rounds)
{
	struct share shares[16] = { 0 };
	int wrong = 0;
	for (int i = 0; i < threads; i++) {
		shares[i].number = i;
		shares[i].rounds = rounds;
		pthread_create(&shares[i].thread, NULL, storm, &shares[i]);
	}
	for (int i = 0; i < threads; i++) {
		pthread_join(shares[i].thread, NULL);
		wrong += shares[i].wrong;
	}
	answer(wrong);
}

static void obey(char *line)
{
	static unsigned char bytes[1 << 20];
	static char name[256], other[256];
	char character;
	long a, b;
	if (sscanf(line, "write %ld %ld %c", &a, &b, &character) == 3) {
		memset(bytes, character, b);
		answer(pwrite(fd, bytes, b, a));
	} else if (sscanf(line, "append %ld %c", &a, &character) == 2) {
		memset(bytes, character, a);
		lseek(fd, 0, SEEK_END);
		answer(write(fd, bytes, a));
	} else if (sscanf(line, "read %ld %ld", &a, &b) == 2) {
		show(bytes, pread(fd, bytes, b, a));
	} else if (sscanf(line, "length %ld", &a) == 1) {
		answer(ftruncate(fd, a));
	} else if (sscanf(line, "allocate %ld %ld", &a, &b) == 2) {
		answer(fallocate(fd, 0, a, b));
	} else if (sscanf(line, "rename %255s %255s", name, other) == 2) {
		answer(rename(name, other));
	} else if (sscanf(line, "storm %ld %ld", &a, &b) == 2) {
		start_storm(a, b);
	} else if (!strcmp(line, "sync")) {
		answer(fdatasync(fd));
	} else if (!strcmp(line, "size")) {
		struct stat by_fd, by_path;
		int failed = fstat(fd, &by_fd) || stat(path, &by_path) || by_fd.st_size != by_path.st_size;
		answer(failed ? -1 : by_fd.st_size);
	} else if (!strcmp(line, "reopen")) {
		close(fd);
		fd = open(path, O_RDWR | O_CREAT, 0600);
		answer(fd < 0 ? -1 : 0);
	} else if (!strcmp(line, "wall")) {
		answer(now(CLOCK_REALTIME));
	} else if (!strcmp(line, "mono")) {
		answer(now(CLOCK_MONOTONIC));
	} else if (!strcmp(line, "exit")) {
		exit(0);
	} else if (sscanf(line, "%255s %ld", name, &a) == 2) {
		long long start = now(CLOCK_MONOTONIC);
		wait_by(name, a);
		answer(now(CLOCK_MONOTONIC) - start);
	} else {
		printf("unknown command\n");
		fflush(stdout);
	}
}

int main(int count, char **arguments)
{
	char line[600];
	path = count > 1 ? arguments[1] : "/dev/null";
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0)
		return 1;
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		obey(line);
	}
	return 0;
}
