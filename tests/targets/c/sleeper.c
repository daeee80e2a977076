/* A process that sleeps, with N mappings (first argument, default 1000) side by side that the kernel cannot merge.
 * Truth:
 *
 *   {"kind": "ladder", "address", "count", "page_bytes"}
 *       `count` mappings of one page each from `address` on: those of even number are rw-p and written to, those of odd
 *       number are r--p and were never touched
 *   {"kind": KIND, "address", "bytes", "permissions", "rss_bytes", "dirty_bytes"}
 *       one mapping each: "anonymous" (half of it written to), "guard" (no access), "executable" (writable and
 *       executable), "shared" (shared anonymous memory), "memfd" (the memfd named in `name`), "file" (its own
 *       executable, mapped once more), "named" (name_hex: anonymous memory named with PR_SET_VMA_ANON_NAME, where the
 *       kernel has that), "locked"
 *       "file" has no dirty_bytes: its pages are dirty until the executable has been written back
 *   {"missing": KIND, "errno"} instead where the machine does not allow it
 */
#include "truth.h"

#include <sys/mman.h>
#include <sys/stat.h>

#define PAGES 64

static size_t page;

/* Pages apart from each other, so that what was claimed is a mapping of its own. */
static char *map(const char *kind, size_t bytes, int protection, int flags, int fd)
{
    char *room = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *mapping;

    if (room == MAP_FAILED)
        fail("mmap");
    mapping = mmap(room + page, bytes, protection, flags | MAP_FIXED, fd, 0);
    if (mapping == MAP_FAILED) {
        say("{'missing':'%s','errno':%d}", kind, errno);
        return NULL;
    }
    madvise(mapping, bytes, MADV_NOHUGEPAGE);
    return mapping;
}

static void claim(const char *kind, const char *mapping, size_t bytes, const char *permissions, size_t rss, size_t dirty,
                  const char *more)
{
    say("{'kind':'%s','address':'%#lx','bytes':%zu,'permissions':'%s','rss_bytes':%zu,'dirty_bytes':%zu%s}", kind,
        (unsigned long)mapping, bytes, permissions, rss, dirty, more);
}

static void ladder(size_t count)
{
    char *rungs = mmap(NULL, (count + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (rungs == MAP_FAILED)
        fail("mmap");
    rungs += page;
    madvise(rungs, count * page, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < count; i++) {
        char *rung = rungs + i * page;

        if (mprotect(rung, page, i % 2 == 0 ? PROT_READ | PROT_WRITE : PROT_READ) != 0)
            fail("mprotect");
        if (i % 2 == 0)
            *rung = 1;
    }
    say("{'kind':'ladder','address':'%#lx','count':%zu,'page_bytes':%zu}", (unsigned long)rungs, count, page);
}

static void others(void)
{
    size_t bytes = PAGES * page, half = bytes / 2;
    const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS, both = PROT_READ | PROT_WRITE;
    int memfd = memfd_create("sleeper-memory", MFD_CLOEXEC), self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char *mapping = map("anonymous", bytes, both, anonymous, -1);

    if (mapping != NULL) {
        memset(mapping, 1, half);
        claim("anonymous", mapping, bytes, "rw-p", half, half, "");
    }
    /* Another protection than its neighbours have: those are of no access, too. */
    mapping = map("guard", bytes, both, MAP_SHARED | MAP_ANONYMOUS, -1);
    if (mapping != NULL && mprotect(mapping, bytes, PROT_NONE) == 0)
        claim("guard", mapping, bytes, "---s", 0, 0, "");
    mapping = map("executable", bytes, both | PROT_EXEC, anonymous, -1);
    if (mapping != NULL) {
        memset(mapping, 0xcc, page);
        claim("executable", mapping, bytes, "rwxp", page, page, "");
    }
    mapping = map("shared", bytes, both, MAP_SHARED | MAP_ANONYMOUS, -1);
    if (mapping != NULL) {
        memset(mapping, 1, half);
        claim("shared", mapping, bytes, "rw-s", half, half, "");
    }
    if (memfd < 0 || ftruncate(memfd, (off_t)bytes) != 0)
        fail("memfd_create");
    mapping = map("memfd", bytes, both, MAP_SHARED, memfd);
    if (mapping != NULL) {
        memset(mapping, 1, half);
        claim("memfd", mapping, bytes, "rw-s", half, half, ",\"name\":\"sleeper-memory\"");
    }
    mapping = map("file", page, PROT_READ, MAP_PRIVATE, self);
    if (mapping != NULL && *(volatile char *)mapping == 0x7f)
        say("{'kind':'file','address':'%#lx','bytes':%zu,'permissions':'r--p','rss_bytes':%zu}", (unsigned long)mapping, page,
            page);
    mapping = map("locked", bytes, both, anonymous, -1);
    if (mapping != NULL) {
        if (mlock(mapping, bytes) == 0)
            claim("locked", mapping, bytes, "rw-p", bytes, bytes, "");
        else
            say("{'missing':'locked','errno':%d}", errno);
    }
    mapping = map("named", bytes, both, anonymous, -1);
    if (mapping != NULL) {
        memset(mapping, 1, page);
        if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, mapping, bytes, "sleeper buffer") == 0)
            claim("named", mapping, bytes, "rw-p", page, page, ",\"name\":\"sleeper buffer\"");
        else
            say("{'missing':'named','errno':%d}", errno);
    }
}

int main(int argc, char **argv)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    others();
    ladder(argc > 1 ? strtoul(argv[1], NULL, 10) : 1000);
    stay();
}
