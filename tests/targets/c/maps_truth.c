/* Memory of every kind. Without arguments: one mapping of each, and COUNT threads. Truth, one line a mapping:
 *
 *   kind, start, end  what it is and where, as `agent maps` names it; a mapping inside of which `address` lies where
 *                     only that is known (heap, stack, vdso)
 *   permissions, name, path_hex, deleted, tids, hardening (in the order of the checks), flags (that must be among
 *                     `vm_flags`)
 *   touched_bytes     what was written to, and nothing else is in memory: rss, private dirty, anonymous
 *   and locked_bytes
 *
 * For what this machine does not allow there is a line {"missing": KIND, "errno": N} instead. Other modes:
 *
 *   lazy       as without arguments, and memory given back with MADV_FREE, of which nothing is claimed
 *   many N     N mappings of one to three pages, every other one touched and writable
 *   churn      mappings come and go all the time
 *   leaderless the first thread has ended, and another one stays. Truth: tid of that one
 */
#include "truth.h"

#include <link.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define THREADS 4
#define PAGE 4096UL
/* Between two mappings: what is larger than a guard. */
#define APART (2UL << 20)

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MADV_FREE
#define MADV_FREE 8
#endif

static char *room;

/* The next address at which nothing is a neighbour that the kernel could merge with. */
static char *place(size_t size)
{
    char *here = room;

    room += (size + APART - 1) / APART * APART + APART;
    return here;
}

static char *map_at(size_t size, int protection, int flags, int fd)
{
    char *at = mmap(place(size), size, protection, flags | MAP_FIXED, fd, 0);

    if (at == MAP_FAILED)
        fail("mmap");
    return at;
}

static char *anonymous(size_t size, int protection)
{
    return map_at(size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void touch(char *at, size_t size)
{
    for (size_t i = 0; i < size; i += PAGE)
        at[i] = 1;
}

static void missing(const char *kind)
{
    say("{'missing': '%s', 'errno': %d}", kind, errno);
}

/* One line; `more` is further members, with ' for ". */
static void claim(const char *kind, const char *permissions, char *start, size_t size, const char *more)
{
    char *members = strdup(more);

    if (members == NULL)
        fail("strdup");
    for (char *c = members; *c != '\0'; c++)
        if (*c == '\'')
            *c = '"';
    say("{'kind': '%s', 'permissions': '%s', 'start': '%p', 'end': '%p'%s}", kind, permissions, (void *)start,
        (void *)(start + size), members);
    free(members);
}

static void claim_path(const char *kind, const char *permissions, char *start, size_t size, const char *path,
                       int deleted, const char *more)
{
    char *digits = hex(path, strlen(path)), *all;

    if (asprintf(&all, ", 'path_hex': '%s', 'deleted': %s%s", digits, deleted ? "true" : "false", more) < 0)
        fail("asprintf");
    claim(kind, permissions, start, size, all);
    free(digits);
    free(all);
}

static void anonymous_kinds(void)
{
    char *at = anonymous(16 * PAGE, PROT_READ | PROT_WRITE);

    touch(at, 5 * PAGE);
    claim("anonymous", "rw-p", at, 16 * PAGE, ", 'touched_bytes': 20480, 'hardening': []");

    at = anonymous(3 * PAGE, PROT_READ | PROT_WRITE);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, 3 * PAGE, "pool: a b") != 0)
        missing("name");
    else
        claim("anonymous", "rw-p", at, 3 * PAGE, ", 'name': 'pool: a b', 'touched_bytes': 0");

    at = anonymous(3 * PAGE, PROT_READ | PROT_WRITE);
    if (mprotect(at + PAGE, PAGE, PROT_NONE) != 0)
        fail("mprotect");
    claim("anonymous", "rw-p", at, PAGE, "");
    claim("guard", "---p", at + PAGE, PAGE, "");
    claim("anonymous", "rw-p", at + 2 * PAGE, PAGE, "");

    at = anonymous(2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    touch(at, PAGE);
    claim("jit", "rwxp", at, 2 * PAGE,
          ", 'touched_bytes': 4096, 'hardening': ['writable_executable', 'executable_anonymous']");
    at = anonymous(2 * PAGE, PROT_READ | PROT_EXEC);
    claim("jit", "r-xp", at, 2 * PAGE, ", 'touched_bytes': 0, 'hardening': ['executable_anonymous']");

    at = anonymous(4 * PAGE, PROT_READ | PROT_WRITE);
    touch(at, 4 * PAGE);
    if (mlock(at, 4 * PAGE) != 0)
        missing("locked");
    else
        claim("anonymous", "rw-p", at, 4 * PAGE, ", 'touched_bytes': 16384, 'locked_bytes': 16384, 'flags': ['locked']");

    at = anonymous(4 * PAGE, PROT_READ | PROT_WRITE);
    if (madvise(at, 4 * PAGE, MADV_DONTDUMP) != 0 || madvise(at, 4 * PAGE, MADV_DONTFORK) != 0)
        fail("madvise");
    claim("anonymous", "rw-p", at, 4 * PAGE, ", 'flags': ['readable', 'writable', 'dont_copy', 'dont_dump']");

    /* The rest of the room itself. */
    at = place(APART);
    say("{'kind': 'reserved', 'permissions': '---p', 'address': '%p'}", (void *)at);
}

/* Pages that the kernel may take: how many it counts as such depends on what it still holds in its batches. */
static void lazy_free(void)
{
    char *at = anonymous(256 * PAGE, PROT_READ | PROT_WRITE);

    touch(at, 256 * PAGE);
    if (madvise(at, 256 * PAGE, MADV_FREE) != 0)
        missing("lazy_free");
}

static void shared_kinds(void)
{
    char *at = map_at(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    int segment, fd;
    char path[64];

    claim_path("shared_memory", "rw-s", at, 4 * PAGE, "/dev/zero", 1, "");

    segment = shmget(IPC_PRIVATE, 4 * PAGE, IPC_CREAT | 0600);
    if (segment < 0) {
        missing("system_v");
    } else {
        at = shmat(segment, place(4 * PAGE), SHM_REMAP);
        shmctl(segment, IPC_RMID, NULL);
        if (at == (char *)-1)
            fail("shmat");
        claim_path("shared_memory", "rw-s", at, 4 * PAGE, "/SYSV00000000", 1, "");
    }

    snprintf(path, sizeof path, "/dev/shm/maps_truth.%d", getpid());
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 4 * PAGE) != 0) {
        missing("dev_shm");
    } else {
        at = map_at(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
        /* Nothing of it is to stay when this program is killed. */
        unlink(path);
        claim_path("shared_memory", "rw-s", at, 4 * PAGE, path, 1, "");
        close(fd);
    }

    fd = (int)syscall(SYS_memfd_create, "a buffer", 0);
    if (fd < 0 || ftruncate(fd, 4 * PAGE) != 0)
        fail("memfd_create");
    at = map_at(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    claim_path("memfd", "rw-s", at, 4 * PAGE, "/memfd:a buffer", 1, ", 'hardening': []");
    at = map_at(PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd);
    claim_path("memfd", "r-xp", at, PAGE, "/memfd:a buffer", 1, ", 'hardening': ['executable_memfd']");
    close(fd);
}

static void file_kinds(void)
{
    const char *base = getenv("TMPDIR");
    char directory[512], path[600];
    char *at;
    int fd;

    snprintf(directory, sizeof directory, "%s/maps_truth.XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(directory) == NULL)
        fail(directory);
    snprintf(path, sizeof path, "%s/two  spaces, a\nnewline and \xff (deleted", directory);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 8 * PAGE) != 0)
        fail(path);
    at = map_at(8 * PAGE, PROT_READ, MAP_PRIVATE, fd);
    claim_path("file", "r--p", at, 8 * PAGE, path, 0, "");
    close(fd);

    snprintf(path, sizeof path, "%s/removed", directory);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 8 * PAGE) != 0)
        fail(path);
    at = map_at(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    unlink(path);
    touch(at, PAGE);
    claim_path("file", "rw-p", at, 8 * PAGE, path, 1, ", 'hardening': []");
    close(fd);

    snprintf(path, sizeof path, "%s/removed.so", directory);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0700);
    if (fd < 0 || ftruncate(fd, 8 * PAGE) != 0)
        fail(path);
    /* As the loader does it: a header, code, data. */
    at = mmap(place(8 * PAGE), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    if (mmap(at + PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, PAGE) == MAP_FAILED ||
        mmap(at + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 2 * PAGE) == MAP_FAILED) {
        missing("code");
    } else {
        unlink(path);
        claim_path("rodata", "r--p", at, PAGE, path, 1, ", 'hardening': []");
        claim_path("code", "r-xp", at + PAGE, PAGE, path, 1, ", 'hardening': ['executable_deleted']");
        claim_path("data", "rw-p", at + 2 * PAGE, PAGE, path, 1, ", 'hardening': []");
    }
    close(fd);

    snprintf(path, sizeof path, "%s/patched.so", directory);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0700);
    if (fd < 0 || ftruncate(fd, 4 * PAGE) != 0)
        fail(path);
    at = map_at(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    touch(at, PAGE);
    if (mprotect(at, 4 * PAGE, PROT_READ | PROT_EXEC) != 0)
        missing("modified_code");
    else
        claim_path("code", "r-xp", at, 4 * PAGE, path, 0, ", 'hardening': ['modified_code']");
    close(fd);

    /* The files stay, so that their paths are true; whoever set TMPDIR removes them. */
}

static void kernel_kinds(void)
{
    void *heap = malloc(64);
    int here;

    say("{'kind': 'heap', 'permissions': 'rw-p', 'address': '%p', 'name': 'heap'}", heap);
    say("{'kind': 'stack', 'permissions': 'rw-p', 'address': '%p', 'name': 'stack', 'tids': [%d]}", (void *)&here,
        getpid());
    say("{'kind': 'vdso', 'permissions': 'r-xp', 'address': '0x%lx', 'name': 'vdso', 'hardening': []}",
        getauxval(AT_SYSINFO_EHDR));
    say("{'kind': 'code', 'permissions': 'r-xp', 'address': '%p'}", (void *)&kernel_kinds);
}

static pthread_barrier_t started;

static void *thread_main(void *unused UNUSED)
{
    pthread_attr_t attributes;
    void *start;
    size_t size, guard;

    if (pthread_getattr_np(pthread_self(), &attributes) != 0 || pthread_attr_getstack(&attributes, &start, &size) != 0 ||
        pthread_attr_getguardsize(&attributes, &guard) != 0)
        fail("pthread_getattr_np");
    /* The guard is the lower end of what pthreads calls the stack, or lies below it: both have been. */
    say("{'kind': 'thread_stack', 'permissions': 'rw-p', 'address': '%p', 'end': '%p', 'guard_bytes': %zu, 'tids': "
        "[%ld]}",
        (void *)&size, (void *)((char *)start + size), guard, syscall(SYS_gettid));
    pthread_barrier_wait(&started);
    for (;;)
        pause();
    return NULL;
}

static void start_threads(int count)
{
    pthread_barrier_init(&started, NULL, count + 1);
    for (int i = 0; i < count; i++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, thread_main, NULL) != 0)
            fail("pthread_create");
    }
    pthread_barrier_wait(&started);
}

static void many(long count)
{
    for (long i = 0; i < count; i++) {
        int writable = i % 2;
        char *at = mmap(NULL, PAGE * (1 + i % 3), writable ? PROT_READ | PROT_WRITE : PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (at == MAP_FAILED)
            fail("mmap");
        if (writable)
            *at = 1;
    }
    stay();
}

static NAMED void *churn(void *unused UNUSED)
{
    for (;;) {
        char *at[16];

        for (int i = 0; i < 16; i++)
            at[i] = mmap(NULL, PAGE * (1 + i), i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                         -1, 0);
        for (int i = 0; i < 16; i++)
            munmap(at[i], PAGE * (1 + i));
    }
    return NULL;
}

static void *remaining(void *unused UNUSED)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/self/task/%d/maps", getpid());
    /* Until the first thread has given its address space up. */
    for (int turn = 0; turn < 20000; turn++) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        char byte;
        ssize_t length = file < 0 ? 0 : read(file, &byte, 1);

        if (file >= 0)
            close(file);
        if (length <= 0)
            break;
        usleep(1000);
    }
    say("{'tid': %ld}", syscall(SYS_gettid));
    stay();
    return NULL;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    pthread_t thread;

    if (strcmp(mode, "many") == 0)
        many(argc > 2 ? atol(argv[2]) : 5000);
    if (strcmp(mode, "churn") == 0) {
        if (pthread_create(&thread, NULL, churn, NULL) != 0)
            fail("pthread_create");
        stay();
    }
    if (strcmp(mode, "leaderless") == 0) {
        if (pthread_create(&thread, NULL, remaining, NULL) != 0)
            fail("pthread_create");
        pthread_exit(NULL);
    }
    room = mmap(NULL, 64 * APART, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        fail("mmap");
    room += APART;
    anonymous_kinds();
    shared_kinds();
    file_kinds();
    start_threads(THREADS);
    kernel_kinds();
    if (strcmp(mode, "lazy") == 0)
        lazy_free();
    stay();
}
