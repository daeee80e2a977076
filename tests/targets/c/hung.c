/* A process with a file, mappings and a working directory on a file system that no longer answers, as on a dead NFS server,
 * and with its arguments and its environment in one of the mappings: a FUSE server of its own, which stops to answer when all is in place. Whoever asks that file system for anything then
 * waits until the program ends.
 *
 * Needs root (it mounts, in a mount namespace of its own) and /dev/fuse. Truth: pid, fd, path, directory; or unavailable, why
 * it cannot be had here.
 */
#include "truth.h"

#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { SIZE = 8192, READ_BYTES = 4096, FILE_NODE = 2 };

static int device;
static atomic_int answers = 1;

static struct fuse_attr attributes(uint64_t node)
{
    struct fuse_attr attributes = {.ino = node, .nlink = 1, .blksize = 4096, .size = SIZE};

    attributes.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0755;
    return attributes;
}

static void answer(uint64_t unique, int error, const void *body, size_t length)
{
    char buffer[sizeof(struct fuse_out_header) + SIZE];
    struct fuse_out_header head = {.len = (uint32_t)(sizeof head + length), .error = error, .unique = unique};

    memcpy(buffer, &head, sizeof head);
    if (length > 0)
        memcpy(buffer + sizeof head, body, length);
    if (write(device, buffer, sizeof head + length) < 0 && errno != ENOENT)
        fail("write to /dev/fuse");
}

static void serve_one(const struct fuse_in_header *in, const void *body)
{
    static char data[SIZE];

    switch (in->opcode) {
    case FUSE_INIT: {
        const struct fuse_init_in *asked = body;
        struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = asked->minor, .max_readahead = asked->max_readahead,
                                    .max_write = 4096, .time_gran = 1};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_LOOKUP: {
        /* Nothing may be kept: each look at the file asks again. */
        struct fuse_entry_out out = {.nodeid = FILE_NODE, .attr = attributes(FILE_NODE)};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out out = {.attr = attributes(in->nodeid)};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out out = {.fh = 1};
        answer(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_READ: {
        const struct fuse_read_in *read = body;
        size_t left = read->offset < SIZE ? SIZE - (size_t)read->offset : 0;
        answer(in->unique, 0, data, left < read->size ? left : read->size);
        break;
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        break;
    case FUSE_ACCESS:
    case FUSE_RELEASE:
        answer(in->unique, 0, NULL, 0);
        break;
    default:
        answer(in->unique, -ENOSYS, NULL, 0);
    }
}

static void *serve(void *unused)
{
    static char buffer[1 << 17];

    for (;;) {
        ssize_t length = read(device, buffer, sizeof buffer);

        if (length < 0 && (errno == EINTR || errno == ENOENT))
            continue;
        if (length < (ssize_t)sizeof(struct fuse_in_header))
            return unused;
        if (answers)
            serve_one((const void *)buffer, buffer + sizeof(struct fuse_in_header));
    }
}

static void unavailable(const char *what)
{
    say("{'unavailable':'%s: %s'}", what, strerror(errno));
    exit(0);
}

/* The fields of proc_pid_stat(5) from `first` to `last`, which are addresses. */
static void addresses(int first, int last, unsigned long long *to)
{
    char text[2048];
    FILE *file = fopen("/proc/self/stat", "r");

    if (file == NULL || fgets(text, sizeof text, file) == NULL)
        fail("stat");
    fclose(file);
    char *field = strrchr(text, ')') + 1;
    for (int number = 3; number <= last; number++) {
        unsigned long long value = 0;

        field += strspn(field, " ");
        if (number >= first)
            value = strtoull(field, NULL, 10);
        field += strcspn(field, " ");
        if (number >= first)
            to[number - first] = value;
    }
}

/* From now on the kernel is to look for the arguments and the environment in a page of the file that is not in memory.
 * PR_SET_MM_MAP takes no capability, and a mapping over one's own stack would do as well. */
static void move_arguments(int file)
{
    void *page = mmap(NULL, SIZE - READ_BYTES, PROT_READ, MAP_PRIVATE, file, READ_BYTES);
    unsigned long long code[3], data[3], at = (unsigned long)page;
    unsigned char resident = 1;

    if (page == MAP_FAILED || posix_fadvise(file, READ_BYTES, SIZE - READ_BYTES, POSIX_FADV_DONTNEED) != 0)
        fail("mmap");
    if (mincore(page, SIZE - READ_BYTES, &resident) != 0 || (resident & 1) != 0)
        fail("the page is in memory");
    addresses(26, 28, code);
    addresses(45, 47, data);
    struct prctl_mm_map map = {
        .start_code = code[0], .end_code = code[1], .start_stack = code[2], .start_data = data[0], .end_data = data[1],
        .start_brk = data[2], .brk = (unsigned long)sbrk(0), .arg_start = at, .arg_end = at + 100, .env_start = at + 200,
        .env_end = at + 300, .exe_fd = (unsigned)-1,
    };
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) != 0)
        unavailable("PR_SET_MM_MAP");
}

int main(void)
{
    char directory[] = "/tmp/hung-XXXXXX", options[128], path[64];
    pthread_t server;

    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        unavailable("a mount namespace");
    if (mount("none", "/tmp", "tmpfs", 0, NULL) != 0 || mkdtemp(directory) == NULL)
        fail("a directory");
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (device < 0)
        unavailable("/dev/fuse");
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (mount("server:/share", directory, "fuse.hung", MS_NOSUID | MS_NODEV, options) != 0)
        unavailable("mount");
    if (pthread_create(&server, NULL, serve, NULL) != 0)
        fail("pthread_create");
    snprintf(path, sizeof path, "%s/file", directory);
    /* The first one that is closed tells the kernel that this server knows no FUSE_FLUSH: else the end of this program would
     * wait for its answer. */
    close(open(path, O_RDONLY | O_CLOEXEC));
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        fail("open");
    volatile const char *code = mmap(NULL, READ_BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    if (code == MAP_FAILED || code[0] != 0)
        fail("mmap");
    move_arguments(file);
    if (chdir(directory) != 0)
        fail("chdir");
    answers = 0;
    say("{'pid':%d,'fd':%d,'path':'%s','directory':'%s'}", getpid(), file, path, directory);
    stay();
}
