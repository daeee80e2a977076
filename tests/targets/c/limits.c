/* A process near its limits: `limits SOFT PERCENT LOCKED_KIB` (default 1000 80 64) sets its soft limit of descriptors to
 * SOFT, opens descriptors until PERCENT of that are open, and locks LOCKED_KIB in memory. Truth:
 *
 *   {"pid", "descriptors", "locked_bytes"}  how many are open, all told, and what is locked, in bytes
 *   {"limit", "soft", "hard"}               one line a limit, by the second half of its name in getrlimit(2), in lower
 *                                           case; null is unlimited
 */
#include "truth.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/resource.h>

static const struct {
    const char *name;
    int which;
} LIMITS[] = {
    {"as", RLIMIT_AS},           {"core", RLIMIT_CORE},       {"cpu", RLIMIT_CPU},       {"data", RLIMIT_DATA},
    {"fsize", RLIMIT_FSIZE},     {"locks", RLIMIT_LOCKS},     {"memlock", RLIMIT_MEMLOCK}, {"msgqueue", RLIMIT_MSGQUEUE},
    {"nice", RLIMIT_NICE},       {"nofile", RLIMIT_NOFILE},   {"nproc", RLIMIT_NPROC},   {"rss", RLIMIT_RSS},
    {"rtprio", RLIMIT_RTPRIO},   {"rttime", RLIMIT_RTTIME},   {"sigpending", RLIMIT_SIGPENDING}, {"stack", RLIMIT_STACK},
};

static const char *amount(rlim_t value, char *text)
{
    if (value == RLIM_INFINITY)
        return "null";
    sprintf(text, "%llu", (unsigned long long)value);
    return text;
}

static long open_now(void)
{
    DIR *directory = opendir("/proc/self/fd");
    long count = 0;

    if (directory == NULL)
        fail("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(directory);
    /* The directory itself was one. */
    return count - 1;
}

int main(int argc, char **argv)
{
    rlim_t soft = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    long percent = argc > 2 ? atol(argv[2]) : 80, wanted = (long)soft * percent / 100, open_fds;
    size_t locked = (argc > 3 ? strtoul(argv[3], NULL, 10) : 64) * 1024;
    struct rlimit limit;
    void *memory = mmap(NULL, locked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        fail("getrlimit");
    limit.rlim_cur = soft;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        fail("RLIMIT_NOFILE");
    /* One that nobody else has, to be recognised by. */
    if (getrlimit(RLIMIT_CORE, &limit) != 0)
        fail("getrlimit");
    limit.rlim_cur = limit.rlim_max < 4321 ? limit.rlim_max : 4321;
    if (setrlimit(RLIMIT_CORE, &limit) != 0)
        fail("RLIMIT_CORE");
    if (memory == MAP_FAILED || mlock(memory, locked) != 0)
        fail("mlock");
    for (open_fds = open_now(); open_fds < wanted; open_fds++)
        if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0)
            fail("/dev/null");
    say("{'pid':%d,'descriptors':%ld,'locked_bytes':%zu}", getpid(), open_now(), locked);
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
        char first[32], second[32];

        if (getrlimit(LIMITS[i].which, &limit) != 0)
            fail(LIMITS[i].name);
        say("{'limit':'%s','soft':%s,'hard':%s}", LIMITS[i].name, amount(limit.rlim_cur, first),
            amount(limit.rlim_max, second));
    }
    stay();
}
