// A switch between network namespaces whose every link delays, loses, repeats and reorders as it is told.
//
//     switch CONTROL NAMESPACE=ADDRESS ...
//
// One TUN device, named DEVICE below, is made in each namespace (/var/run/netns/NAMESPACE). The harness gives it its
// ADDRESS (IPv4) and brings it up once the control file says that the switch is ready. A packet goes to the port whose
// address it is sent to; packets for no port, and all but IPv4, are dropped. The switch ends, and its devices go,
// when its standard input is closed.
//
// The control file, little-endian, made by the harness and mapped here. The harness writes everything below 16384
// but `ready`, the switch the rest.
//
//       0 u64 magic "JEPSWTCH"
//       8 u32 version, 1
//      12 u32 ready         ports that exist; 0 until all do
//      16 u64 seed          read at the start
//      64 links, 32 bytes for each ordered pair, at 64 + 32 * (16 * from + to)
//          0 u32 cut            1: every packet is dropped
//          4 u32 loss_ppm
//          8 u32 delay_us
//         12 u32 jitter_us      up to so much is added to the delay
//         16 u32 reorder_ppm    packets held back so that those behind them overtake
//         20 u32 duplicate_ppm
//   16384 counters, 64 bytes for each ordered pair, at 16384 + 64 * (16 * from + to), in the order of struct counters
//   32768 u64 strangers     packets for no port
//
// Each pair draws from a generator of its own, seeded by seed and pair: what happens to the n-th packet of a pair
// depends on nothing else. Packets keep their order unless held back on purpose; jitter alone does not reorder. A
// packet that is on its way when its link is cut still arrives, as in a real network. At most QUEUE_MAX packets are on
// their way; more are dropped and counted.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x484354575350454aull /* "JEPSWTCH" */
#define VERSION 1
#define CONTROL_BYTES 36864
#define DEVICE "jepsen0"
#define PORTS_MAX 16
#define QUEUE_MAX 65536
#define BURST 64
#define PACKET_MAX 65536
#define HELD_BACK_NS 2000000ull /* more than the gap between packets of a busy connection */

struct link {
	_Atomic uint32_t cut, loss_ppm, delay_us, jitter_us, reorder_ppm, duplicate_ppm, reserved[2];
};

struct counters {
	_Atomic uint64_t forwarded; // packets handed to the receiver
	_Atomic uint64_t bytes;     // of those
	_Atomic uint64_t cut;       // packets dropped because the link is
	_Atomic uint64_t lost;
	_Atomic uint64_t delayed;
	_Atomic uint64_t reordered;
	_Atomic uint64_t duplicated;
	_Atomic uint64_t refused;   // queue full, or the receiver's device down
};

struct control {
	uint64_t magic;
	uint32_t version;
	_Atomic uint32_t ready;
	uint64_t seed;
	char unused[40];
	struct link links[PORTS_MAX][PORTS_MAX];
	char room[16384 - 64 - 32 * PORTS_MAX * PORTS_MAX];
	struct counters counters[PORTS_MAX][PORTS_MAX];
	_Atomic uint64_t strangers;
};

_Static_assert(offsetof(struct control, links) == 64, "layout");
_Static_assert(offsetof(struct control, counters) == 16384, "layout");
_Static_assert(offsetof(struct control, strangers) == 32768, "layout");

struct packet {
	uint64_t due, number; // packets due at once leave in the order they came
	int from, to;
	size_t bytes;
	unsigned char content[];
};

static struct control *control;
static int ports, device[PORTS_MAX];
static uint32_t address[PORTS_MAX]; // network order
static uint64_t state[PORTS_MAX][PORTS_MAX], last_due[PORTS_MAX][PORTS_MAX];
static struct packet *queue[QUEUE_MAX]; // a heap, the packet due first on top
static size_t queued;

static void die(const char *what)
{
	fprintf(stderr, "switch: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t draw(int from, int to)
{
	return mix(state[from][to] += 0x9e3779b97f4a7c15ull);
}

static uint32_t order(_Atomic uint32_t *field)
{
	return atomic_load_explicit(field, memory_order_relaxed);
}

// Only this thread counts, so the sum need not be one atomic step.
static void count(_Atomic uint64_t *counter, uint64_t by)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by, memory_order_relaxed);
}

static int sooner(const struct packet *a, const struct packet *b)
{
	return a->due != b->due ? a->due < b->due : a->number < b->number;
}

static void enqueue(struct packet *packet)
{
	size_t at = queued++;
	while (at && sooner(packet, queue[(at - 1) / 2])) {
		queue[at] = queue[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	queue[at] = packet;
}

static struct packet *dequeue(void)
{
	struct packet *top = queue[0], *last = queue[--queued];
	size_t at = 0;
	for (size_t child; (child = 2 * at + 1) < queued; at = child) {
		if (child + 1 < queued && sooner(queue[child + 1], queue[child]))
			child++;
		if (!sooner(queue[child], last))
			break;
		queue[at] = queue[child];
	}
	queue[at] = last;
	return top;
}

static void deliver(int from, int to, const unsigned char *content, size_t bytes)
{
	struct counters *counters = &control->counters[from][to];
	if (write(device[to], content, bytes) == (ssize_t)bytes) {
		count(&counters->forwarded, 1);
		count(&counters->bytes, bytes);
	} else {
		count(&counters->refused, 1);
	}
}

static void send_later(int from, int to, const unsigned char *content, size_t bytes, uint64_t due)
{
	static uint64_t number;
	struct packet *packet = queued < QUEUE_MAX ? malloc(sizeof *packet + bytes) : NULL;
	if (!packet) {
		count(&control->counters[from][to].refused, 1);
		return;
	}
	*packet = (struct packet){ .due = due, .number = number++, .from = from, .to = to, .bytes = bytes };
	memcpy(packet->content, content, bytes);
	enqueue(packet);
}

// When this packet is to arrive. Never before the one ahead of it, but for those that it held back.
static uint64_t due_at(int from, int to, struct link *link, uint64_t now)
{
	struct counters *counters = &control->counters[from][to];
	uint32_t jitter = order(&link->jitter_us);
	uint64_t delay = order(&link->delay_us) * 1000ull;
	if (jitter)
		delay += draw(from, to) % (jitter * 1000ull + 1);
	if (delay)
		count(&counters->delayed, 1);
	uint64_t due = now + delay > last_due[from][to] ? now + delay : last_due[from][to];
	uint32_t reorder = order(&link->reorder_ppm);
	if (reorder && draw(from, to) % 1000000 < reorder) {
		count(&counters->reordered, 1);
		return due + HELD_BACK_NS + draw(from, to) % HELD_BACK_NS;
	}
	last_due[from][to] = due;
	return due;
}

static void pass(int from, int to, const unsigned char *content, size_t bytes)
{
	struct link *link = &control->links[from][to];
	struct counters *counters = &control->counters[from][to];
	if (order(&link->cut)) {
		count(&counters->cut, 1);
		return;
	}
	uint32_t loss = order(&link->loss_ppm), duplicate = order(&link->duplicate_ppm);
	if (loss && draw(from, to) % 1000000 < loss) {
		count(&counters->lost, 1);
		return;
	}
	int copies = 1 + (duplicate && draw(from, to) % 1000000 < duplicate);
	count(&counters->duplicated, copies - 1);
	while (copies--) {
		uint64_t now = now_ns(), due = due_at(from, to, link, now);
		if (due <= now)
			deliver(from, to, content, bytes);
		else
			send_later(from, to, content, bytes, due);
	}
}

// False once the device is gone, with its namespace.
static int take_from(int from)
{
	static unsigned char content[PACKET_MAX];
	for (int i = 0; i < BURST; i++) {
		ssize_t bytes = read(device[from], content, sizeof content);
		if (bytes <= 0)
			return errno == EAGAIN || errno == EINTR;
		uint32_t destination = 0;
		int to = ports;
		if (bytes >= 20 && content[0] >> 4 == 4) {
			memcpy(&destination, content + 16, sizeof destination);
			for (to = 0; to < ports && address[to] != destination; to++)
				;
		}
		if (to < ports)
			pass(from, to, content, bytes);
		else
			count(&control->strangers, 1);
	}
	return 1;
}

static void deliver_due(void)
{
	for (uint64_t now = now_ns(); queued && queue[0]->due <= now;) {
		struct packet *packet = dequeue();
		deliver(packet->from, packet->to, packet->content, packet->bytes);
		free(packet);
	}
}

static int input_closed(void)
{
	char bytes[64];
	return read(0, bytes, sizeof bytes) <= 0;
}

static void run(void)
{
	struct pollfd waits[PORTS_MAX + 1];
	for (int i = 0; i < ports; i++)
		waits[i] = (struct pollfd){ .fd = device[i], .events = POLLIN };
	waits[ports] = (struct pollfd){ .fd = 0, .events = POLLIN };
	for (;;) {
		deliver_due();
		struct timespec left = { 0 };
		uint64_t now = now_ns();
		if (queued && queue[0]->due > now) {
			left.tv_sec = (queue[0]->due - now) / 1000000000;
			left.tv_nsec = (queue[0]->due - now) % 1000000000;
		}
		if (ppoll(waits, ports + 1, queued ? &left : NULL, NULL) < 0 && errno != EINTR)
			die("wait for packets");
		if (waits[ports].revents && input_closed())
			return;
		for (int i = 0; i < ports; i++)
			if (waits[i].revents && !take_from(i))
				waits[i].fd = -1;
	}
}

// A thread's namespace decides where a device is made; the descriptor works from everywhere.
static void add_port(char *name)
{
	char path[128], *equals = strchr(name, '=');
	if (!equals || ports == PORTS_MAX)
		die("at most 16 ports, each NAMESPACE=ADDRESS");
	*equals = 0;
	if (inet_pton(AF_INET, equals + 1, &address[ports]) != 1)
		die(equals + 1);
	snprintf(path, sizeof path, "/var/run/netns/%s", name);
	int namespace = open(path, O_RDONLY | O_CLOEXEC);
	if (namespace < 0 || setns(namespace, CLONE_NEWNET))
		die(path);
	close(namespace);
	int made = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	strcpy(request.ifr_name, DEVICE);
	if (made < 0 || ioctl(made, TUNSETIFF, &request))
		die("make a TUN device");
	device[ports++] = made;
}

static void map_control(const char *path)
{
	struct stat stat;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &stat) || stat.st_size != CONTROL_BYTES)
		die(path);
	control = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		die("map the control file");
	if (control->magic != MAGIC || control->version != VERSION) {
		errno = EINVAL;
		die("the control file is of another kind or version");
	}
	close(fd);
}

int main(int words, char **word)
{
	if (words < 3) {
		fprintf(stderr, "usage: switch CONTROL NAMESPACE=ADDRESS ...\n");
		return 2;
	}
	map_control(word[1]);
	for (int i = 2; i < words; i++)
		add_port(word[i]);
	for (int from = 0; from < ports; from++)
		for (int to = 0; to < ports; to++)
			state[from][to] = mix(control->seed + mix(1 + PORTS_MAX * from + to));
	atomic_store(&control->ready, ports);
	run();
	return 0;
}
