// A library to preload into a dynamically linked program: its disk and its clocks misbehave on order.
//
//     cc -O2 -shared -fPIC -pthread -o faults.so faults.c -ldl
//     JEPSEN_FAULTS=/run/h1.faults JEPSEN_FAULTS_FOLDER=/run/h1 LD_PRELOAD=faults.so program
//
// JEPSEN_FAULTS names the control file: one page, made by the harness, which writes orders into it at any time and
// reads counters from it; this side maps it. Only regular files below JEPSEN_FAULTS_FOLDER are touched. Without the
// first variable nothing is changed at all, without the second only the clocks can be bent.
//
// The control file, little-endian. The harness alone writes the first half, the programs alone the second.
//
//       0 u64 magic "JEPFAULT"
//       8 u32 version, 1
//      16 u32 hold            0: writes go through; 1: they are held in memory until the file is synced
//      20 u32 sync            0: honest; 1: lying: success is answered and nothing is written out
//      24 u32 space           0: free; 1: full: writes, allocations and growth get ENOSPC
//      28 u32 sync_failure    what a failed sync does to held writes: 0: they stay held; 1: they never reach the disk
//      32 u64 sync_delay_ns   before every sync
//      40 u64 sync_errors_max syncs get EIO while the counter of such errors is below this
//      48 u64 write_errors_max the same for writes
//      56 u64 flip_one_in     one read in so many has one bit flipped; 0: none
//      64 u64 seed            of the flips
//      72 u64 cut_seed        of the power cut
//      80 u32 cut_order       a change cuts the power of every program that is attached
//      84 u32 clock_order     of the fields below; odd while they are being written, 0 when never used
//      88 i64 wall_from_ns    true wall time at which wall_ahead_ns holds
//      96 i64 wall_ahead_ns   how far CLOCK_REALTIME is ahead of the truth
//     104 i64 wall_ppm        how much faster than the truth it runs, from wall_from_ns on
//     112 i64 mono_ahead_ns   sum of all forward jumps of CLOCK_MONOTONIC; never shrinks
//     120 i64 mono_ppm        how much faster than the truth it runs from now on
//     128 u32 cut_moment      of the power cut: 0: at once; 1: instead of the next sync that has something to write
//    2048 u64 each            counters, in the order of struct counters
//
// The disk. While writes are held, what the program wrote is in a list per file, and reads, sizes and positions show
// it. A sync writes the list out, in order. SIGKILL therefore is a power cut in which nothing unsynced survived. A
// power cut by order is harsher: every held write survives whole, not at all or torn at a multiple of 512 bytes, as
// drawn from cut_seed, and then the program kills itself. A held write covers whole sectors as they stood after it,
// so that a sector on the disk is always one the program had, never half a write inside it. exit() writes everything
// out, as a kernel would that goes on running; abort() does not.
//
// A failed sync that loses its writes behaves as Linux does: reads go on showing them, later syncs do not write them.
//
// The clocks. The wall clock is a line: true time + ahead + drift since wall_from_ns. Every process bends the
// monotonic clock itself and starts a new line where the old one ends, so it never steps back. Waits
// with a time limit are measured on the bent clock and looked after every 100 ms, so that they notice a jump.
//
// Not covered. Names: creating, renaming and unlinking are durable at once, so a forgotten sync of a folder is not
// found. Memory maps of files, stdio (fopen), io_uring, direct system calls and static programs are not seen; nor is
// statvfs. A forked child is left alone unless it executes a program, and execve in a program forgets its held
// writes. What was written before holding began counts as durable. Descriptors from 65536 on are not followed.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MAGIC 0x544c55414650454aull /* "JEPFAULT" */
#define VERSION 1
#define CONTROL_BYTES 4096
#define DESCRIPTORS 65536
#define PAGE 4096
#define SECTOR 512
#define BUCKETS 4096
#define SECOND 1000000000ll
#define MILLION 1000000ll
#define SLICE_NS 100000000ll
#define WATCH_NS 5000000ll
#define NO_END UINT64_MAX

// ---- The control file -------------------------------------------------------------------------------------------

struct orders {
	uint64_t magic;
	uint32_t version, reserved;
	_Atomic uint32_t hold, sync, space, sync_failure;
	_Atomic uint64_t sync_delay_ns, sync_errors_max, write_errors_max, flip_one_in, seed, cut_seed;
	_Atomic uint32_t cut_order, clock_order;
	_Atomic int64_t wall_from_ns, wall_ahead_ns, wall_ppm, mono_ahead_ns, mono_ppm;
	_Atomic uint32_t cut_moment;
};

struct counters {
	_Atomic uint64_t attached;       // programs that mapped this file
	_Atomic uint64_t files;          // opens of files below the folder
	_Atomic uint64_t syncs;          // of such files, asked for
	_Atomic uint64_t syncs_delayed;
	_Atomic uint64_t sync_errors;    // EIO at a sync
	_Atomic uint64_t sync_lies;
	_Atomic uint64_t writes_held;    // writes and changes of length taken into memory
	_Atomic uint64_t writes_settled; // of those, written out: by a sync, at exit, or whole in a power cut
	_Atomic uint64_t writes_dropped; // of those, thrown away by a failed sync or a power cut
	_Atomic uint64_t writes_torn;    // of those, survived a power cut in part
	_Atomic uint64_t write_errors;   // EIO at a write
	_Atomic uint64_t space_errors;   // ENOSPC
	_Atomic uint64_t reads_flipped;
	_Atomic uint64_t clock_bent;     // clock reads that were not the truth
	_Atomic uint64_t waits_bent;     // waits whose limit was not the truth
	_Atomic uint64_t cuts;
	_Atomic uint64_t reads;          // of followed files while flips are ordered
	_Atomic uint64_t failed_inode;   // of the file whose sync failed last
};

struct control {
	union {
		struct orders orders;
		char half[CONTROL_BYTES / 2];
	};
	struct counters counters;
};

_Static_assert(offsetof(struct orders, sync_delay_ns) == 32, "layout");
_Static_assert(offsetof(struct orders, cut_order) == 80, "layout");
_Static_assert(offsetof(struct orders, cut_moment) == 128, "layout");
_Static_assert(offsetof(struct control, counters) == 2048, "layout");

static struct control *control;
static char folder[PATH_MAX];
static size_t folder_bytes;
static uint32_t cut_seen;
// In a forked child everything goes through: the held writes belong to the parent.
static _Atomic int forked;

#define ORDER(field) atomic_load_explicit(&control->orders.field, memory_order_relaxed)
#define COUNT(field) atomic_fetch_add_explicit(&control->counters.field, 1, memory_order_relaxed)
#define COUNT_MANY(field, n) atomic_fetch_add_explicit(&control->counters.field, (n), memory_order_relaxed)

// ---- The functions that these ones stand before -----------------------------------------------------------------

#define FUNCTIONS(X) \
	X(open64) X(openat64) X(close) X(close_range) X(dup) X(dup2) X(dup3) X(fcntl64) X(read) X(pread64) X(readv) \
	X(preadv64) X(write) X(pwrite64) X(writev) X(pwritev64) X(lseek64) X(fsync) X(fdatasync) X(ftruncate64) \
	X(fallocate64) X(posix_fallocate64) X(copy_file_range) X(sendfile64) X(stat64) X(fstat64) X(lstat64) \
	X(fstatat64) X(statx) X(rename) X(renameat) X(unlink) X(unlinkat) X(clock_gettime) X(gettimeofday) X(time) \
	X(epoll_wait) X(epoll_pwait) X(poll) X(nanosleep) X(clock_nanosleep) X(pthread_cond_timedwait) \
	X(pthread_cond_clockwait) X(syscall)

#define DECLARE(name) static __typeof__(&name) next_##name;
FUNCTIONS(DECLARE)

static _Atomic int resolved;

static void resolve(void)
{
#define FIND(name) next_##name = (__typeof__(&name))dlsym(RTLD_NEXT, #name);
	FUNCTIONS(FIND)
	// An unversioned look-up may find the condition variables of before 2003.
	void *current = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
	if (current)
		next_pthread_cond_timedwait = (__typeof__(&pthread_cond_timedwait))current;
	atomic_store_explicit(&resolved, 1, memory_order_release);
}

// Other libraries' constructors may call in before ours ran.
#define NEXT(name) \
	(atomic_load_explicit(&resolved, memory_order_acquire) ? next_##name : (resolve(), next_##name))

static void die(const char *what)
{
	char line[256];
	int n = snprintf(line, sizeof line, "jepsen faults: %s: %s\n", what, strerror(errno));
	(void)!NEXT(write)(2, line, n);
	abort();
}

static void *must_alloc(size_t bytes)
{
	void *made = calloc(1, bytes);
	if (!made)
		die("out of memory");
	return made;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

// Takes one of the errors ordered: true while fewer than `max` were given, over all threads and programs.
static int claim(_Atomic uint64_t *given, uint64_t max)
{
	uint64_t now = atomic_load_explicit(given, memory_order_relaxed);
	while (now < max)
		if (atomic_compare_exchange_weak(given, &now, now + 1))
			return 1;
	return 0;
}

// ---- Held writes ------------------------------------------------------------------------------------------------

struct page {
	uint64_t number;
	struct page *next;
	unsigned char bytes[PAGE];
};

enum op_kind { WRITE, LENGTH };

struct op {
	struct op *next;
	enum op_kind kind;
	uint64_t offset; // of a WRITE; the new length of a LENGTH
	size_t bytes;
	unsigned char content[];
};

// A regular file below the folder, by inode, whatever its names and descriptors. Never freed, so that a descriptor
// can be looked up without a lock.
struct file {
	pthread_mutex_t lock;
	struct file *next;
	dev_t device;
	ino_t inode;
	int references;        // descriptors; under table_lock
	int own;               // a descriptor of our own, for what outlives the program's; -1 without
	_Atomic int overlaid;  // what the program sees differs from the file
	int diverged;          // a failed sync threw writes away: it differs for good
	uint64_t size;         // as the program sees it, while overlaid
	uint64_t visible;      // bytes of the file from here on were cut off and must not be seen
	struct page **pages;   // what the program sees, where it wrote
	struct op *first, **last;
	uint64_t ops;
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files; // newest first
static _Atomic(struct file *) followed[DESCRIPTORS];
static _Atomic unsigned char syncs_always[DESCRIPTORS]; // opened with O_SYNC or O_DSYNC
static _Atomic int ever_held;

static struct file *file_of(int fd)
{
	if ((unsigned)fd >= DESCRIPTORS)
		return NULL;
	struct file *file = atomic_load_explicit(&followed[fd], memory_order_relaxed);
	return file && !atomic_load_explicit(&forked, memory_order_relaxed) ? file : NULL;
}

static int is_overlaid(struct file *file)
{
	return atomic_load_explicit(&file->overlaid, memory_order_acquire);
}

static size_t pread_all(int fd, void *out, size_t n, uint64_t at)
{
	size_t done = 0;
	while (done < n) {
		ssize_t got = NEXT(pread64)(fd, (char *)out + done, n - done, at + done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		done += got;
	}
	return done;
}

static int pwrite_all(int fd, const void *from, size_t n, uint64_t at)
{
	size_t done = 0;
	while (done < n) {
		ssize_t put = NEXT(pwrite64)(fd, (const char *)from + done, n - done, at + done);
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return -1;
		done += put;
	}
	return 0;
}

// Makes the file ready to be overlaid. The descriptor of our own is opened anew rather than duplicated: a duplicate
// would keep the program's flock alive after the program closed its own.
static int take_over(struct file *file, int fd)
{
	if (file->own < 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		file->own = NEXT(open64)(path, O_RDWR | O_CLOEXEC);
		if (file->own < 0)
			return -1;
	}
	if (!file->pages)
		file->pages = must_alloc(BUCKETS * sizeof *file->pages);
	if (!is_overlaid(file)) {
		struct stat64 stat;
		if (NEXT(fstat64)(file->own, &stat))
			return -1;
		file->size = stat.st_size;
		file->visible = NO_END;
		file->first = NULL;
		file->last = &file->first;
		atomic_store(&ever_held, 1);
		atomic_store_explicit(&file->overlaid, 1, memory_order_release);
	}
	return 0;
}

static struct page *find_page(struct file *file, uint64_t number)
{
	struct page *page = file->pages[number % BUCKETS];
	while (page && page->number != number)
		page = page->next;
	return page;
}

// What lies below the overlay: the file's bytes, zeros past its end and past what was cut off.
static void read_below(struct file *file, unsigned char *out, size_t n, uint64_t at)
{
	size_t wanted = at >= file->visible ? 0 : n;
	if (wanted && file->visible - at < n)
		wanted = file->visible - at;
	size_t got = wanted ? pread_all(file->own, out, wanted, at) : 0;
	memset(out + got, 0, n - got);
}

static struct page *make_page(struct file *file, uint64_t number)
{
	struct page *page = find_page(file, number);
	if (page)
		return page;
	page = must_alloc(sizeof *page);
	page->number = number;
	read_below(file, page->bytes, PAGE, number * PAGE);
	page->next = file->pages[number % BUCKETS];
	file->pages[number % BUCKETS] = page;
	return page;
}

static size_t view(struct file *file, unsigned char *out, size_t n, uint64_t at)
{
	if (at >= file->size)
		return 0;
	if (n > file->size - at)
		n = file->size - at;
	read_below(file, out, n, at);
	for (size_t done = 0; done < n;) {
		size_t within = (at + done) % PAGE;
		size_t length = PAGE - within < n - done ? PAGE - within : n - done;
		struct page *page = find_page(file, (at + done) / PAGE);
		if (page)
			memcpy(out + done, page->bytes + within, length);
		done += length;
	}
	return n;
}

static struct op *append(struct file *file, enum op_kind kind, uint64_t offset, size_t bytes)
{
	struct op *op = malloc(sizeof *op + bytes);
	if (!op)
		die("out of memory");
	*op = (struct op){ .kind = kind, .offset = offset, .bytes = bytes };
	*file->last = op;
	file->last = &op->next;
	file->ops++;
	COUNT(writes_held);
	return op;
}

static void hold_write(struct file *file, const unsigned char *from, size_t n, uint64_t at)
{
	for (size_t done = 0; done < n;) {
		size_t within = (at + done) % PAGE;
		size_t length = PAGE - within < n - done ? PAGE - within : n - done;
		memcpy(make_page(file, (at + done) / PAGE)->bytes + within, from + done, length);
		done += length;
	}
	if (at + n > file->size)
		file->size = at + n;
	uint64_t start = at / SECTOR * SECTOR;
	uint64_t end = (at + n + SECTOR - 1) / SECTOR * SECTOR;
	if (end > file->size)
		end = file->size;
	struct op *op = append(file, WRITE, start, end - start);
	view(file, op->content, op->bytes, start);
}

static void free_pages(struct file *file, uint64_t from)
{
	for (size_t i = 0; file->pages && i < BUCKETS; i++) {
		struct page **slot = &file->pages[i];
		while (*slot) {
			struct page *page = *slot;
			if (page->number >= from) {
				*slot = page->next;
				free(page);
			} else {
				slot = &page->next;
			}
		}
	}
}

static void hold_length(struct file *file, uint64_t length)
{
	if (length < file->size) {
		if (length % PAGE) {
			struct page *page = make_page(file, length / PAGE);
			memset(page->bytes + length % PAGE, 0, PAGE - length % PAGE);
		}
		free_pages(file, (length + PAGE - 1) / PAGE);
		if (length < file->visible)
			file->visible = length;
	}
	file->size = length;
	append(file, LENGTH, length, 0);
}

// Forgets the list; returns how many it held.
static uint64_t forget_ops(struct file *file)
{
	for (struct op *op = file->first; op;) {
		struct op *next = op->next;
		free(op);
		op = next;
	}
	uint64_t count = file->ops;
	file->first = NULL;
	file->last = &file->first;
	file->ops = 0;
	return count;
}

static void end_overlay(struct file *file)
{
	free_pages(file, 0);
	free(file->pages);
	file->pages = NULL;
	if (file->own >= 0)
		NEXT(close)(file->own);
	file->own = -1;
	file->diverged = 0;
	atomic_store_explicit(&file->overlaid, 0, memory_order_release);
}

static int write_out(struct file *file)
{
	for (struct op *op = file->first; op; op = op->next) {
		int failed = op->kind == WRITE ? pwrite_all(file->own, op->content, op->bytes, op->offset)
					       : NEXT(ftruncate64)(file->own, op->offset);
		if (failed)
			return -1;
	}
	COUNT_MANY(writes_settled, forget_ops(file));
	if (!file->diverged)
		end_overlay(file);
	return 0;
}

// Whether this change is to be held. Ends holding that was lifted. Called and returns with the lock held.
static int holds(struct file *file, int fd)
{
	if (ORDER(hold) || file->diverged)
		return take_over(file, fd) ? -1 : 1;
	if (is_overlaid(file) && write_out(file))
		return -1;
	return 0;
}

static int is_unlinked(struct file *file)
{
	struct stat64 stat;
	return file->own >= 0 && NEXT(fstat64)(file->own, &stat) == 0 && stat.st_nlink == 0;
}

// A file without name and descriptor is gone, and its held writes with it. Under table_lock.
static void sweep(struct file *file)
{
	pthread_mutex_lock(&file->lock);
	if (file->references == 0 && is_overlaid(file) && is_unlinked(file)) {
		COUNT_MANY(writes_dropped, forget_ops(file));
		end_overlay(file);
	}
	pthread_mutex_unlock(&file->lock);
}

static void sweep_all(void)
{
	if (!control || forked || !atomic_load(&ever_held))
		return;
	int error = errno;
	pthread_mutex_lock(&table_lock);
	for (struct file *file = files; file; file = file->next)
		sweep(file);
	pthread_mutex_unlock(&table_lock);
	errno = error;
}

// ---- Power cut --------------------------------------------------------------------------------------------------

static void survive(struct file *file, struct op *op, uint64_t *state, uint64_t eighths)
{
	uint64_t draw = mix(*state += 0x9e3779b97f4a7c15ull);
	uint64_t boundaries = op->kind == WRITE && op->bytes ? (op->bytes - 1) / SECTOR : 0;
	if (draw % 8 < eighths) {
		if (op->kind == LENGTH)
			(void)!NEXT(ftruncate64)(file->own, op->offset);
		else
			pwrite_all(file->own, op->content, op->bytes, op->offset);
		COUNT(writes_settled);
	} else if (boundaries && (draw >> 8) % 2) {
		size_t tear = (1 + (draw >> 16) % boundaries) * SECTOR;
		if ((draw >> 9) % 2)
			pwrite_all(file->own, op->content, tear, op->offset);
		else
			pwrite_all(file->own, op->content + tear, op->bytes - tear, op->offset + tear);
		COUNT(writes_torn);
	} else {
		COUNT(writes_dropped);
	}
}

// Every lock is taken before the first write and none is given back: a sync that comes later never returns.
static void cut_power(uint64_t seed)
{
	uint64_t state = mix(seed);
	uint64_t eighths = state % 9; // how kind this cut is, from nothing whole to everything
	pthread_mutex_lock(&table_lock);
	for (struct file *file = files; file; file = file->next)
		pthread_mutex_lock(&file->lock);
	for (struct file *file = files; file; file = file->next)
		for (struct op *op = file->first; op; op = op->next)
			survive(file, op, &state, eighths);
	COUNT(cuts);
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

enum cut_moment { AT_ONCE, AT_SYNC };

static void cut_if_ordered(enum cut_moment moment)
{
	if (atomic_load(&control->orders.cut_order) != cut_seen && ORDER(cut_moment) == moment)
		cut_power(ORDER(cut_seed));
}

static void *watch(void *unused)
{
	(void)unused;
	struct timespec pause_for = { .tv_nsec = WATCH_NS };
	for (;;) {
		cut_if_ordered(AT_ONCE);
		NEXT(nanosleep)(&pause_for, NULL);
	}
	return NULL;
}

// Starts with the first file that is followed; its signals stay with the program's threads.
static void start_watch(void)
{
	pthread_t thread;
	pthread_attr_t attributes;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 256 * 1024);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attributes, watch, NULL))
		die("cannot start the thread that waits for power cuts");
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

// ---- Start and end ----------------------------------------------------------------------------------------------

static _Atomic uint32_t line_sequence;

static void forget_in_child(void)
{
	atomic_store(&forked, 1);
	if (atomic_load(&line_sequence) % 2)
		atomic_fetch_add(&line_sequence, 1);
}

__attribute__((constructor(101))) static void attach(void)
{
	resolve();
	const char *path = getenv("JEPSEN_FAULTS");
	const char *below = getenv("JEPSEN_FAULTS_FOLDER");
	if (!path || !*path)
		return;
	int fd = NEXT(open64)(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die(path);
	struct stat64 stat;
	if (NEXT(fstat64)(fd, &stat) || stat.st_size < CONTROL_BYTES)
		die("the control file is too short");
	struct control *mapped = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEXT(close)(fd);
	if (mapped == MAP_FAILED)
		die("cannot map the control file");
	if (mapped->orders.magic != MAGIC || mapped->orders.version != VERSION)
		die("the control file is of another kind or version");
	if (below && *below && !realpath(below, folder))
		die(below);
	folder_bytes = strlen(folder);
	cut_seen = atomic_load(&mapped->orders.cut_order);
	pthread_atfork(NULL, NULL, forget_in_child);
	control = mapped;
	COUNT(attached);
}

__attribute__((destructor)) static void detach(void)
{
	if (!control || forked)
		return;
	pthread_mutex_lock(&table_lock);
	for (struct file *file = files; file; file = file->next) {
		pthread_mutex_lock(&file->lock);
		if (is_overlaid(file) && !is_unlinked(file))
			write_out(file);
		pthread_mutex_unlock(&file->lock);
	}
	pthread_mutex_unlock(&table_lock);
}

// ---- Which descriptors are followed -----------------------------------------------------------------------------

static int is_below(int fd)
{
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	return n > (ssize_t)folder_bytes && !memcmp(path, folder, folder_bytes) && path[folder_bytes] == '/';
}

static struct file *find_file(dev_t device, ino_t inode)
{
	struct file *file = files;
	while (file && (file->device != device || file->inode != inode))
		file = file->next;
	return file;
}

static void unfollow(int fd)
{
	if (!control || forked || (unsigned)fd >= DESCRIPTORS)
		return;
	if (!atomic_load_explicit(&followed[fd], memory_order_relaxed))
		return;
	pthread_mutex_lock(&table_lock);
	struct file *file = atomic_exchange(&followed[fd], NULL);
	if (file) {
		file->references--;
		sweep(file);
	}
	pthread_mutex_unlock(&table_lock);
}

static void follow_as(int fd, struct file *file, int always)
{
	if ((unsigned)fd >= DESCRIPTORS)
		return;
	file->references++;
	atomic_store(&syncs_always[fd], always);
	atomic_store_explicit(&followed[fd], file, memory_order_release);
}

// Follows a descriptor that open() returned, if it is a regular file below the folder.
static struct file *follow(int fd, int flags)
{
	static int watching;
	unfollow(fd);
	if (fd < 0 || !control || forked || !folder_bytes || (flags & O_PATH) == O_PATH)
		return NULL;
	int error = errno;
	struct stat64 stat;
	if (NEXT(fstat64)(fd, &stat) || !S_ISREG(stat.st_mode) || !is_below(fd)) {
		errno = error;
		return NULL;
	}
	pthread_mutex_lock(&table_lock);
	struct file *file = find_file(stat.st_dev, stat.st_ino);
	if (!file) {
		file = must_alloc(sizeof *file);
		pthread_mutex_init(&file->lock, NULL);
		file->device = stat.st_dev;
		file->inode = stat.st_ino;
		file->own = -1;
		file->last = &file->first;
		file->next = files;
		files = file;
	}
	follow_as(fd, file, (flags & (O_SYNC | O_DSYNC)) != 0);
	COUNT(files);
	int start = !watching;
	watching = 1;
	pthread_mutex_unlock(&table_lock);
	if (start)
		start_watch();
	errno = error;
	return file;
}

static void follow_copy(int from, int to)
{
	struct file *file = file_of(from);
	unfollow(to);
	if (to < 0 || !file)
		return;
	pthread_mutex_lock(&table_lock);
	follow_as(to, file, atomic_load(&syncs_always[from]));
	pthread_mutex_unlock(&table_lock);
}

static int change_length(struct file *file, int fd, uint64_t length);

// O_TRUNC would cut the file before it is known whether to hold that, so it is done afterwards, as a change of length.
static int opened(int fd, int flags, int truncates)
{
	struct file *file = follow(fd, flags);
	struct stat64 stat;
	if (fd < 0 || !truncates)
		return fd;
	if (NEXT(fstat64)(fd, &stat) || !S_ISREG(stat.st_mode))
		return fd;
	if (file ? change_length(file, fd, 0) : NEXT(ftruncate64)(fd, 0)) {
		int error = errno;
		unfollow(fd);
		NEXT(close)(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static int holds_truncation(int flags)
{
	return control && !forked && folder_bytes && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY &&
	       (ORDER(hold) || atomic_load(&ever_held));
}

#define MODE_OF(flags, mode) \
	mode_t mode = 0; \
	if ((flags) & (O_CREAT | __O_TMPFILE)) { \
		va_list list; \
		va_start(list, flags); \
		mode = va_arg(list, mode_t); \
		va_end(list); \
	}

EXPORT int open64(const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	int later = holds_truncation(flags);
	return opened(NEXT(open64)(path, later ? flags & ~O_TRUNC : flags, mode), flags, later);
}

EXPORT int open(const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	return open64(path, flags, mode);
}

EXPORT int openat64(int at, const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	int later = holds_truncation(flags);
	return opened(NEXT(openat64)(at, path, later ? flags & ~O_TRUNC : flags, mode), flags, later);
}

EXPORT int openat(int at, const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	return openat64(at, path, flags, mode);
}

EXPORT int creat64(const char *path, mode_t mode)
{
	return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int creat(const char *path, mode_t mode)
{
	return creat64(path, mode);
}

// Forgotten before it is closed: afterwards another thread may be given the same number.
EXPORT int close(int fd)
{
	unfollow(fd);
	return NEXT(close)(fd);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	if (!(flags & CLOSE_RANGE_CLOEXEC))
		for (unsigned fd = first; fd <= last && fd < DESCRIPTORS; fd++)
			unfollow(fd);
	return NEXT(close_range)(first, last, flags);
}

EXPORT int dup(int fd)
{
	int made = NEXT(dup)(fd);
	follow_copy(fd, made);
	return made;
}

EXPORT int dup2(int fd, int to)
{
	int made = NEXT(dup2)(fd, to);
	if (fd != to)
		follow_copy(fd, made);
	return made;
}

EXPORT int dup3(int fd, int to, int flags)
{
	int made = NEXT(dup3)(fd, to, flags);
	follow_copy(fd, made);
	return made;
}

EXPORT int fcntl64(int fd, int command, ...)
{
	va_list list;
	va_start(list, command);
	void *argument = va_arg(list, void *);
	va_end(list);
	int answer = NEXT(fcntl64)(fd, command, argument);
	if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
		follow_copy(fd, answer);
	return answer;
}

EXPORT int fcntl(int fd, int command, ...)
{
	va_list list;
	va_start(list, command);
	void *argument = va_arg(list, void *);
	va_end(list);
	return fcntl64(fd, command, argument);
}

// ---- Reads ------------------------------------------------------------------------------------------------------

static void flip(void *out, ssize_t n)
{
	uint64_t one_in = ORDER(flip_one_in);
	if (n <= 0 || !one_in)
		return;
	uint64_t draw = mix(ORDER(seed) ^ mix(COUNT(reads)));
	if (draw % one_in)
		return;
	uint64_t bit = mix(draw) % ((uint64_t)n * 8);
	((unsigned char *)out)[bit / 8] ^= 1 << bit % 8;
	COUNT(reads_flipped);
}

static ssize_t read_at(struct file *file, int fd, void *out, size_t n, uint64_t at)
{
	ssize_t got;
	if (is_overlaid(file)) {
		pthread_mutex_lock(&file->lock);
		got = is_overlaid(file) ? (ssize_t)view(file, out, n, at) : NEXT(pread64)(fd, out, n, at);
		pthread_mutex_unlock(&file->lock);
	} else {
		got = NEXT(pread64)(fd, out, n, at);
	}
	flip(out, got);
	return got;
}

static int reads_through(struct file *file)
{
	return !file || (!is_overlaid(file) && !ORDER(flip_one_in));
}

static ssize_t read_here(struct file *file, int fd, void *out, size_t n)
{
	off64_t at = NEXT(lseek64)(fd, 0, SEEK_CUR);
	if (at < 0)
		return -1;
	ssize_t got = read_at(file, fd, out, n, at);
	if (got > 0)
		NEXT(lseek64)(fd, at + got, SEEK_SET);
	return got;
}

EXPORT ssize_t pread64(int fd, void *out, size_t n, off64_t at)
{
	struct file *file = file_of(fd);
	return reads_through(file) ? NEXT(pread64)(fd, out, n, at) : read_at(file, fd, out, n, at);
}

EXPORT ssize_t pread(int fd, void *out, size_t n, off_t at)
{
	return pread64(fd, out, n, at);
}

EXPORT ssize_t read(int fd, void *out, size_t n)
{
	struct file *file = file_of(fd);
	return reads_through(file) ? NEXT(read)(fd, out, n) : read_here(file, fd, out, n);
}

EXPORT ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at)
{
	struct file *file = file_of(fd);
	if (reads_through(file))
		return NEXT(preadv64)(fd, parts, count, at);
	ssize_t total = 0;
	for (int i = 0; i < count; i++) {
		ssize_t got = read_at(file, fd, parts[i].iov_base, parts[i].iov_len, at + total);
		if (got < 0)
			return total ? total : -1;
		total += got;
		if ((size_t)got < parts[i].iov_len)
			break;
	}
	return total;
}

EXPORT ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at)
{
	return preadv64(fd, parts, count, at);
}

EXPORT ssize_t readv(int fd, const struct iovec *parts, int count)
{
	struct file *file = file_of(fd);
	if (reads_through(file))
		return NEXT(readv)(fd, parts, count);
	off64_t at = NEXT(lseek64)(fd, 0, SEEK_CUR);
	ssize_t got = at < 0 ? -1 : preadv64(fd, parts, count, at);
	if (got > 0)
		NEXT(lseek64)(fd, at + got, SEEK_SET);
	return got;
}

// ---- Writes -----------------------------------------------------------------------------------------------------

// The error that this write is to get, as -1 and errno, or 0.
static int refuse_write(void)
{
	if (ORDER(space)) {
		COUNT(space_errors);
		errno = ENOSPC;
		return -1;
	}
	if (claim(&control->counters.write_errors, ORDER(write_errors_max))) {
		errno = EIO;
		return -1;
	}
	return 0;
}

static int sync_now(struct file *file)
{
	if (!is_overlaid(file))
		return 0;
	pthread_mutex_lock(&file->lock);
	int failed = is_overlaid(file) ? write_out(file) : 0;
	pthread_mutex_unlock(&file->lock);
	return failed;
}

static ssize_t write_at(struct file *file, int fd, const void *from, size_t n, int64_t at, int appends)
{
	if (refuse_write())
		return -1;
	if (!ORDER(hold) && !is_overlaid(file))
		return appends ? NEXT(write)(fd, from, n) : NEXT(pwrite64)(fd, from, n, at);
	pthread_mutex_lock(&file->lock);
	int held = holds(file, fd);
	ssize_t put = n;
	if (held < 0)
		put = -1;
	else if (!held)
		put = appends ? NEXT(write)(fd, from, n) : NEXT(pwrite64)(fd, from, n, at);
	else if (n)
		hold_write(file, from, n, appends ? file->size : (uint64_t)at);
	pthread_mutex_unlock(&file->lock);
	if (held > 0 && atomic_load(&syncs_always[fd]) && fdatasync(fd))
		return -1;
	return put;
}

static int writes_through(struct file *file)
{
	return !file || (!ORDER(hold) && !ORDER(space) && !is_overlaid(file) &&
			 ORDER(write_errors_max) <=
				 atomic_load_explicit(&control->counters.write_errors, memory_order_relaxed));
}

static int appends(int fd)
{
	return (NEXT(fcntl64)(fd, F_GETFL) & O_APPEND) != 0;
}

EXPORT ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at)
{
	struct file *file = file_of(fd);
	return writes_through(file) ? NEXT(pwrite64)(fd, from, n, at) : write_at(file, fd, from, n, at, appends(fd));
}

EXPORT ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
	return pwrite64(fd, from, n, at);
}

EXPORT ssize_t write(int fd, const void *from, size_t n)
{
	struct file *file = file_of(fd);
	if (writes_through(file))
		return NEXT(write)(fd, from, n);
	int at_end = appends(fd);
	off64_t at = at_end ? 0 : NEXT(lseek64)(fd, 0, SEEK_CUR);
	if (at < 0)
		return -1;
	ssize_t put = write_at(file, fd, from, n, at, at_end);
	if (put > 0)
		NEXT(lseek64)(fd, at_end ? lseek64(fd, 0, SEEK_END) : at + put, SEEK_SET);
	return put;
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
{
	if (writes_through(file_of(fd)))
		return NEXT(writev)(fd, parts, count);
	ssize_t total = 0;
	for (int i = 0; i < count; i++) {
		ssize_t put = write(fd, parts[i].iov_base, parts[i].iov_len);
		if (put < 0)
			return total ? total : -1;
		total += put;
	}
	return total;
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at)
{
	if (writes_through(file_of(fd)))
		return NEXT(pwritev64)(fd, parts, count, at);
	ssize_t total = 0;
	for (int i = 0; i < count; i++) {
		ssize_t put = pwrite64(fd, parts[i].iov_base, parts[i].iov_len, at + total);
		if (put < 0)
			return total ? total : -1;
		total += put;
	}
	return total;
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
	return pwritev64(fd, parts, count, at);
}

static int size_of(struct file *file, int fd, uint64_t *size)
{
	struct stat64 stat;
	if (is_overlaid(file)) {
		*size = file->size;
		return 0;
	}
	if (NEXT(fstat64)(fd, &stat))
		return -1;
	*size = stat.st_size;
	return 0;
}

// Called with the lock held. An allocation sets a length too, but never a smaller one.
static int change_length_locked(struct file *file, int fd, uint64_t length)
{
	uint64_t size;
	if (size_of(file, fd, &size))
		return -1;
	if (length > size && ORDER(space)) {
		COUNT(space_errors);
		errno = ENOSPC;
		return -1;
	}
	int held = holds(file, fd);
	if (held > 0)
		hold_length(file, length);
	return held > 0 ? 0 : held < 0 ? -1 : NEXT(ftruncate64)(fd, length);
}

static int change_length(struct file *file, int fd, uint64_t length)
{
	pthread_mutex_lock(&file->lock);
	int failed = change_length_locked(file, fd, length);
	pthread_mutex_unlock(&file->lock);
	return failed;
}

EXPORT int ftruncate64(int fd, off64_t length)
{
	struct file *file = file_of(fd);
	if (!file || length < 0)
		return NEXT(ftruncate64)(fd, length);
	return change_length(file, fd, length);
}

EXPORT int ftruncate(int fd, off_t length)
{
	return ftruncate64(fd, length);
}

static void hold_zeros(struct file *file, uint64_t at, uint64_t end)
{
	static const unsigned char zeros[64 * 1024];
	if (end > file->size)
		end = file->size;
	while (at < end) {
		size_t n = end - at < sizeof zeros ? end - at : sizeof zeros;
		hold_write(file, zeros, n, at);
		at += n;
	}
}

static int allocate(struct file *file, int fd, int mode, uint64_t at, uint64_t n)
{
	if (!(mode & FALLOC_FL_PUNCH_HOLE) && ORDER(space)) {
		COUNT(space_errors);
		errno = ENOSPC;
		return -1;
	}
	pthread_mutex_lock(&file->lock);
	int held = holds(file, fd);
	int failed = held < 0 ? -1 : 0;
	if (held == 0) {
		failed = NEXT(fallocate64)(fd, mode, at, n);
	} else if (held > 0 && (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) {
		errno = EOPNOTSUPP;
		failed = -1;
	} else if (held > 0) {
		if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
			hold_zeros(file, at, at + n);
		if (!(mode & FALLOC_FL_KEEP_SIZE) && at + n > file->size)
			hold_length(file, at + n);
	}
	pthread_mutex_unlock(&file->lock);
	return failed;
}

EXPORT int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
	struct file *file = file_of(fd);
	if (!file || at < 0 || n <= 0)
		return NEXT(fallocate64)(fd, mode, at, n);
	return allocate(file, fd, mode, at, n);
}

EXPORT int fallocate(int fd, int mode, off_t at, off_t n)
{
	return fallocate64(fd, mode, at, n);
}

EXPORT int posix_fallocate64(int fd, off64_t at, off64_t n)
{
	struct file *file = file_of(fd);
	if (!file || at < 0 || n <= 0)
		return NEXT(posix_fallocate64)(fd, at, n);
	int before = errno;
	int error = allocate(file, fd, 0, at, n) ? errno : 0;
	errno = before;
	return error;
}

EXPORT int posix_fallocate(int fd, off_t at, off_t n)
{
	return posix_fallocate64(fd, at, n);
}

// Copies inside the kernel would pass the overlay by: done by hand as soon as a followed file takes part.
static ssize_t copy(int from, off64_t *from_at, int to, off64_t *to_at, size_t n)
{
	char buffer[64 * 1024];
	if (n > sizeof buffer)
		n = sizeof buffer;
	ssize_t got = from_at ? pread64(from, buffer, n, *from_at) : read(from, buffer, n);
	if (got <= 0)
		return got;
	ssize_t put = to_at ? pwrite64(to, buffer, got, *to_at) : write(to, buffer, got);
	if (put > 0 && from_at)
		*from_at += put;
	if (put > 0 && to_at)
		*to_at += put;
	if (!from_at && put < got)
		NEXT(lseek64)(from, (put < 0 ? 0 : put) - got, SEEK_CUR);
	return put;
}

EXPORT ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t n, unsigned flags)
{
	if (!file_of(from) && !file_of(to))
		return NEXT(copy_file_range)(from, from_at, to, to_at, n, flags);
	return copy(from, from_at, to, to_at, n);
}

EXPORT ssize_t sendfile64(int to, int from, off64_t *from_at, size_t n)
{
	if (!file_of(from) && !file_of(to))
		return NEXT(sendfile64)(to, from, from_at, n);
	return copy(from, from_at, to, NULL, n);
}

EXPORT ssize_t sendfile(int to, int from, off_t *from_at, size_t n)
{
	return sendfile64(to, from, from_at, n);
}

// ---- Syncs ------------------------------------------------------------------------------------------------------

static void delay_sync(void)
{
	uint64_t delay = ORDER(sync_delay_ns);
	struct timespec left = { .tv_sec = delay / SECOND, .tv_nsec = delay % SECOND };
	if (!delay)
		return;
	COUNT(syncs_delayed);
	while (NEXT(nanosleep)(&left, &left) && errno == EINTR)
		;
}

static void lose_held(struct file *file)
{
	pthread_mutex_lock(&file->lock);
	if (is_overlaid(file) && file->ops) {
		COUNT_MANY(writes_dropped, forget_ops(file));
		file->diverged = 1;
	}
	pthread_mutex_unlock(&file->lock);
}

static int sync_file(struct file *file, int fd, int (*real)(int))
{
	COUNT(syncs);
	delay_sync();
	if (is_overlaid(file))
		cut_if_ordered(AT_SYNC);
	if (claim(&control->counters.sync_errors, ORDER(sync_errors_max))) {
		atomic_store(&control->counters.failed_inode, file->inode);
		if (ORDER(sync_failure))
			lose_held(file);
		errno = EIO;
		return -1;
	}
	if (ORDER(sync)) {
		COUNT(sync_lies);
		return 0;
	}
	return sync_now(file) ? -1 : real(fd);
}

EXPORT int fsync(int fd)
{
	struct file *file = file_of(fd);
	return file ? sync_file(file, fd, NEXT(fsync)) : NEXT(fsync)(fd);
}

EXPORT int fdatasync(int fd)
{
	struct file *file = file_of(fd);
	return file ? sync_file(file, fd, NEXT(fdatasync)) : NEXT(fdatasync)(fd);
}

// ---- Sizes and names --------------------------------------------------------------------------------------------

EXPORT off64_t lseek64(int fd, off64_t by, int whence)
{
	struct file *file = file_of(fd);
	if (!file || whence != SEEK_END || !is_overlaid(file))
		return NEXT(lseek64)(fd, by, whence);
	pthread_mutex_lock(&file->lock);
	uint64_t size = 0;
	int failed = size_of(file, fd, &size);
	pthread_mutex_unlock(&file->lock);
	return failed ? -1 : NEXT(lseek64)(fd, (off64_t)size + by, SEEK_SET);
}

EXPORT off_t lseek(int fd, off_t by, int whence)
{
	return lseek64(fd, by, whence);
}

// The size that the program is to see of this inode; false where it is the true one.
static int seen_size(dev_t device, ino_t inode, uint64_t *size)
{
	if (!control || forked || !atomic_load_explicit(&ever_held, memory_order_relaxed))
		return 0;
	pthread_mutex_lock(&table_lock);
	struct file *file = find_file(device, inode);
	pthread_mutex_unlock(&table_lock);
	if (!file || !is_overlaid(file))
		return 0;
	pthread_mutex_lock(&file->lock);
	int overlaid = is_overlaid(file);
	if (overlaid)
		*size = file->size;
	pthread_mutex_unlock(&file->lock);
	return overlaid;
}

static int show_size(int failed, struct stat64 *stat)
{
	uint64_t size;
	if (!failed && S_ISREG(stat->st_mode) && seen_size(stat->st_dev, stat->st_ino, &size))
		stat->st_size = size;
	return failed;
}

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "a 64-bit machine is needed");

EXPORT int stat64(const char *path, struct stat64 *out) { return show_size(NEXT(stat64)(path, out), out); }
EXPORT int lstat64(const char *path, struct stat64 *out) { return show_size(NEXT(lstat64)(path, out), out); }
EXPORT int fstat64(int fd, struct stat64 *out) { return show_size(NEXT(fstat64)(fd, out), out); }

EXPORT int fstatat64(int at, const char *path, struct stat64 *out, int flags)
{
	return show_size(NEXT(fstatat64)(at, path, out, flags), out);
}

EXPORT int stat(const char *path, struct stat *out) { return stat64(path, (struct stat64 *)out); }
EXPORT int lstat(const char *path, struct stat *out) { return lstat64(path, (struct stat64 *)out); }
EXPORT int fstat(int fd, struct stat *out) { return fstat64(fd, (struct stat64 *)out); }

EXPORT int fstatat(int at, const char *path, struct stat *out, int flags)
{
	return fstatat64(at, path, (struct stat64 *)out, flags);
}

EXPORT int statx(int at, const char *path, int flags, unsigned mask, struct statx *out)
{
	int failed = NEXT(statx)(at, path, flags, mask, out);
	uint64_t size;
	if (!failed && S_ISREG(out->stx_mode) &&
	    seen_size(makedev(out->stx_dev_major, out->stx_dev_minor), out->stx_ino, &size))
		out->stx_size = size;
	return failed;
}

// A name that goes may have been the last of a file with held writes.
EXPORT int unlink(const char *path)
{
	int failed = NEXT(unlink)(path);
	sweep_all();
	return failed;
}

EXPORT int unlinkat(int at, const char *path, int flags)
{
	int failed = NEXT(unlinkat)(at, path, flags);
	sweep_all();
	return failed;
}

EXPORT int rename(const char *from, const char *to)
{
	int failed = NEXT(rename)(from, to);
	sweep_all();
	return failed;
}

EXPORT int renameat(int from_at, const char *from, int to_at, const char *to)
{
	int failed = NEXT(renameat)(from_at, from, to_at, to);
	sweep_all();
	return failed;
}

// ---- Clocks -----------------------------------------------------------------------------------------------------

// How the bent clocks follow from the true ones. Readers take it under line_sequence, without a lock.
static struct {
	int64_t wall_from, wall_ahead, wall_ppm;
	int64_t mono_from, mono_start, mono_ppm, mono_ahead;
} line;
static _Atomic uint32_t line_order;
static atomic_flag line_busy = ATOMIC_FLAG_INIT;

static int64_t nanoseconds(const struct timespec *t)
{
	return t->tv_sec * SECOND + t->tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
	struct timespec t = { .tv_sec = ns / SECOND, .tv_nsec = ns % SECOND };
	if (t.tv_nsec < 0) {
		t.tv_nsec += SECOND;
		t.tv_sec--;
	}
	return t;
}

static int64_t true_now(clockid_t clock)
{
	struct timespec now = { 0 };
	NEXT(clock_gettime)(clock, &now);
	return nanoseconds(&now);
}

static int64_t drift(int64_t elapsed, int64_t ppm)
{
	return (int64_t)((__int128)elapsed * ppm / MILLION);
}

static int64_t mono_of(int64_t now)
{
	return line_order ? line.mono_start + (now - line.mono_from) + drift(now - line.mono_from, line.mono_ppm) : now;
}

// Takes a new order over, once, whichever thread sees it first; the others go on with the old line meanwhile.
static void take_clock_order(void)
{
	uint32_t order = atomic_load_explicit(&control->orders.clock_order, memory_order_acquire);
	if (order == atomic_load_explicit(&line_order, memory_order_relaxed) || order % 2)
		return;
	if (atomic_flag_test_and_set(&line_busy))
		return;
	int64_t wall_from = ORDER(wall_from_ns), wall_ahead = ORDER(wall_ahead_ns), wall_ppm = ORDER(wall_ppm);
	int64_t mono_ahead = ORDER(mono_ahead_ns), mono_ppm = ORDER(mono_ppm);
	atomic_thread_fence(memory_order_acquire);
	if (ORDER(clock_order) == order) {
		atomic_fetch_add(&line_sequence, 1);
		int64_t now = true_now(CLOCK_MONOTONIC);
		int64_t jump = mono_ahead > line.mono_ahead ? mono_ahead - line.mono_ahead : 0;
		line.mono_start = mono_of(now) + jump;
		line.mono_from = now;
		line.mono_ahead = mono_ahead;
		line.mono_ppm = mono_ppm;
		line.wall_from = wall_from;
		line.wall_ahead = wall_ahead;
		line.wall_ppm = wall_ppm;
		atomic_store(&line_order, order);
		atomic_fetch_add(&line_sequence, 1);
	}
	atomic_flag_clear(&line_busy);
}

static int clocks_are_true(void)
{
	return !control || !atomic_load_explicit(&control->orders.clock_order, memory_order_relaxed);
}

enum bend { TRUE_CLOCK, WALL, MONOTONIC };

static enum bend bend_of(clockid_t clock)
{
	switch (clock) {
	case CLOCK_REALTIME:
	case CLOCK_REALTIME_COARSE:
		return WALL;
	case CLOCK_MONOTONIC:
	case CLOCK_MONOTONIC_COARSE:
	case CLOCK_MONOTONIC_RAW:
	case CLOCK_BOOTTIME:
		return MONOTONIC;
	default:
		return TRUE_CLOCK;
	}
}

// The monotonic line was drawn for CLOCK_MONOTONIC; its sisters are moved by as much as it is.
static int64_t bent(clockid_t clock, int64_t now)
{
	if (bend_of(clock) == WALL)
		return now + line.wall_ahead + drift(now - line.wall_from, line.wall_ppm);
	if (clock == CLOCK_MONOTONIC)
		return mono_of(now);
	int64_t base = true_now(CLOCK_MONOTONIC);
	return now + (mono_of(base) - base);
}

// The clock is read between two looks at the sequence, so a time never belongs to a line that came later.
static int64_t bent_now(clockid_t clock)
{
	if (clocks_are_true() || bend_of(clock) == TRUE_CLOCK)
		return true_now(clock);
	take_clock_order();
	for (;;) {
		uint32_t before = atomic_load_explicit(&line_sequence, memory_order_acquire);
		if (before % 2 == 0) {
			int64_t now = true_now(clock), shown = bent(clock, now);
			atomic_thread_fence(memory_order_acquire);
			if (atomic_load_explicit(&line_sequence, memory_order_relaxed) == before) {
				if (shown != now)
					COUNT(clock_bent);
				return shown;
			}
		}
		sched_yield();
	}
}

EXPORT int clock_gettime(clockid_t clock, struct timespec *out)
{
	if (clocks_are_true() || bend_of(clock) == TRUE_CLOCK)
		return NEXT(clock_gettime)(clock, out);
	*out = timespec_of(bent_now(clock));
	return 0;
}

EXPORT int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
	if (clocks_are_true())
		return NEXT(gettimeofday)(out, zone);
	struct timespec now = timespec_of(bent_now(CLOCK_REALTIME));
	*out = (struct timeval){ .tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000 };
	return 0;
}

EXPORT time_t time(time_t *out)
{
	if (clocks_are_true())
		return NEXT(time)(out);
	time_t now = timespec_of(bent_now(CLOCK_REALTIME)).tv_sec;
	if (out)
		*out = now;
	return now;
}

// ---- Waits ------------------------------------------------------------------------------------------------------

// The true time to wait next so that the bent clock comes to `deadline`: at most a slice, at least zero.
static int64_t next_slice(clockid_t clock, int64_t deadline)
{
	int64_t left = deadline - bent_now(clock);
	if (left <= 0)
		return 0;
	int64_t ppm = clocks_are_true() ? 0 : bend_of(clock) == WALL ? line.wall_ppm : line.mono_ppm;
	if (ppm) {
		left = (int64_t)((__int128)left * MILLION / (MILLION + ppm)) + 1;
		COUNT(waits_bent);
	}
	return left < SLICE_NS ? left : SLICE_NS;
}

static int milliseconds_up(int64_t ns)
{
	return (int)((ns + MILLION - 1) / MILLION);
}

#define WAIT_SLICED(timeout_ms, call) \
	do { \
		int64_t deadline = bent_now(CLOCK_MONOTONIC) + (int64_t)(timeout_ms) * MILLION; \
		for (;;) { \
			int64_t slice = next_slice(CLOCK_MONOTONIC, deadline); \
			int slice_ms = milliseconds_up(slice); \
			int ready = (call); \
			if (ready || slice == 0) \
				return ready; \
		} \
	} while (0)

// A short wait on true clocks needs no looking after.
static int waits_truly(int timeout_ms)
{
	return !control || timeout_ms <= 0 || (timeout_ms <= SLICE_NS / MILLION && clocks_are_true());
}

EXPORT int epoll_wait(int fd, struct epoll_event *out, int max, int timeout_ms)
{
	if (waits_truly(timeout_ms))
		return NEXT(epoll_wait)(fd, out, max, timeout_ms);
	WAIT_SLICED(timeout_ms, NEXT(epoll_wait)(fd, out, max, slice_ms));
}

EXPORT int epoll_pwait(int fd, struct epoll_event *out, int max, int timeout_ms, const sigset_t *mask)
{
	if (waits_truly(timeout_ms))
		return NEXT(epoll_pwait)(fd, out, max, timeout_ms, mask);
	WAIT_SLICED(timeout_ms, NEXT(epoll_pwait)(fd, out, max, slice_ms, mask));
}

EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	if (waits_truly(timeout_ms))
		return NEXT(poll)(fds, count, timeout_ms);
	WAIT_SLICED(timeout_ms, NEXT(poll)(fds, count, slice_ms));
}

// Sleeps until the bent clock comes to `deadline`; an error number.
static int sleep_until(clockid_t clock, int64_t deadline)
{
	for (;;) {
		int64_t slice = next_slice(clock, deadline);
		struct timespec pause_for = timespec_of(slice);
		if (slice == 0)
			return 0;
		if (NEXT(nanosleep)(&pause_for, NULL))
			return errno;
	}
}

EXPORT int clock_nanosleep(clockid_t clock, int flags, const struct timespec *request, struct timespec *left)
{
	if (!control || bend_of(clock) == TRUE_CLOCK || request->tv_nsec < 0 || request->tv_nsec >= SECOND)
		return NEXT(clock_nanosleep)(clock, flags, request, left);
	// Setting the wall clock does not shorten a relative sleep.
	clockid_t by = flags & TIMER_ABSTIME ? clock : CLOCK_MONOTONIC;
	int64_t deadline = nanoseconds(request) + (flags & TIMER_ABSTIME ? 0 : bent_now(by));
	int error = sleep_until(by, deadline);
	if (error == EINTR && left && !(flags & TIMER_ABSTIME)) {
		int64_t rest = deadline - bent_now(by);
		*left = timespec_of(rest > 0 ? rest : 0);
	}
	return error;
}

EXPORT int nanosleep(const struct timespec *request, struct timespec *left)
{
	if (!control)
		return NEXT(nanosleep)(request, left);
	int error = clock_nanosleep(CLOCK_MONOTONIC, 0, request, left);
	if (error)
		errno = error;
	return error ? -1 : 0;
}

static struct timespec true_deadline(clockid_t clock, int64_t slice)
{
	return timespec_of(true_now(clock) + slice);
}

EXPORT int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
				  const struct timespec *until)
{
	if (!control)
		return NEXT(pthread_cond_clockwait)(condition, mutex, clock, until);
	for (;;) {
		int64_t slice = next_slice(clock, nanoseconds(until));
		struct timespec at = true_deadline(clock, slice);
		int error = NEXT(pthread_cond_clockwait)(condition, mutex, clock, &at);
		if (error != ETIMEDOUT || slice == 0)
			return error;
	}
}

// glibc keeps the clock that a condition variable was made with in the second bit of this word.
EXPORT int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
	if (!control)
		return NEXT(pthread_cond_timedwait)(condition, mutex, until);
	clockid_t clock = condition->__data.__wrefs & 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
	for (;;) {
		int64_t slice = next_slice(clock, nanoseconds(until));
		struct timespec at = true_deadline(clock, slice);
		int error = NEXT(pthread_cond_timedwait)(condition, mutex, &at);
		if (error != ETIMEDOUT || slice == 0)
			return error;
	}
}

// Rust's locks, condition variables and parked threads wait by this call. A wait that is cut into slices loses no
// wake-up: who wakes changes the word first, and the next slice then returns at once.
static long wait_on_futex(long word, long operation, long value, const struct timespec *limit, long other, long bits)
{
	int absolute = (operation & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
	clockid_t clock = absolute && operation & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
	int64_t deadline = nanoseconds(limit) + (absolute ? 0 : bent_now(clock));
	for (;;) {
		int64_t slice = next_slice(clock, deadline);
		struct timespec at = absolute ? true_deadline(clock, slice) : timespec_of(slice);
		long answer = NEXT(syscall)(SYS_futex, word, operation, value, &at, other, bits);
		if (answer == 0 || errno != ETIMEDOUT || slice == 0)
			return answer;
	}
}

EXPORT long syscall(long number, ...)
{
	va_list list;
	va_start(list, number);
	long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
	long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
	va_end(list);
	if (control && number == SYS_futex && d) {
		int command = b & FUTEX_CMD_MASK;
		if (command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET)
			return wait_on_futex(a, b, c, (const struct timespec *)d, e, f);
	}
	if (control && number == SYS_statx)
		return statx(a, (const char *)b, c, d, (struct statx *)e);
	if (control && number == SYS_copy_file_range)
		return copy_file_range(a, (off64_t *)b, c, (off64_t *)d, e, f);
	return NEXT(syscall)(number, a, b, c, d, e, f);
}
