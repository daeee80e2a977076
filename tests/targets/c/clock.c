/* A clock that jumps: runs a program, and all that it starts, for which CLOCK_REALTIME and CLOCK_BOOTTIME
 * (clock_gettime(2)) differ from what the kernel says by as many seconds as stand in a file, which is read anew each time.
 * Nobody else's clock moves.
 *
 *   clock FILE PROGRAM [ARGUMENT]...
 *
 * FILE has two numbers: the seconds for the wall and those since boot. It is made anew and renamed to change them.
 *
 * The programs are traced (ptrace(2)), and what the kernel writes for clock_gettime(2) is changed as the call returns. For
 * that they must ask the kernel: the vDSO (vdso(7)) is hidden from them. AT_SYSINFO_EHDR in the auxiliary vector
 * (getauxval(3)) becomes AT_IGNORE, which the C library believes; who asks prctl(2) for PR_GET_AUXV is told where it is all
 * the same, so its ELF header is spoilt as well: the pages are a copy of the process's own then.
 *
 * It ends as the program ends.
 */
#include "truth.h"

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <time.h>

/* As linux/ptrace.h has it, which cannot be included beside sys/ptrace.h. */
struct call {
    uint8_t op;
    uint8_t pad[3];
    uint32_t arch;
    uint64_t instruction_pointer;
    uint64_t stack_pointer;
    union {
        struct {
            uint64_t nr;
            uint64_t args[6];
        } entry;
        struct {
            int64_t rval;
            uint8_t is_error;
        } exit;
    };
};
enum { ENTRY = 1, EXIT = 2 };

/* What a thread has asked clock_gettime(2) for. */
static struct asked {
    pid_t tid;
    bool is_clock;
    uint64_t clock, at;
} asked[1024];

static const char *file;

static struct asked *of(pid_t tid)
{
    struct asked *free_one = NULL;

    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        if (asked[i].tid == tid)
            return &asked[i];
        if (asked[i].tid == 0 && free_one == NULL)
            free_one = &asked[i];
    }
    if (free_one == NULL) {
        fputs("too many threads\n", stderr);
        exit(1);
    }
    *free_one = (struct asked){.tid = tid};
    return free_one;
}

static long seconds(uint64_t clock)
{
    long wall = 0, boot = 0;
    FILE *told = fopen(file, "re");

    if (told == NULL || fscanf(told, "%ld %ld", &wall, &boot) != 2)
        fail(file);
    fclose(told);
    return clock == CLOCK_REALTIME ? wall : clock == CLOCK_BOOTTIME ? boot : 0;
}

static long peek(pid_t tid, uint64_t at)
{
    errno = 0;
    return ptrace(PTRACE_PEEKDATA, tid, at, NULL);
}

static bool info(pid_t tid, struct call *call)
{
    /* PTRACE_GET_SYSCALL_INFO */
    return ptrace(0x420e, tid, sizeof *call, call) > 0;
}

/* Hides the vDSO from the program that `tid` has just become. */
static void hide(pid_t tid)
{
    struct call call;
    uint64_t at;
    long type;

    if (!info(tid, &call))
        fail("PTRACE_GET_SYSCALL_INFO");
    at = call.stack_pointer;
    /* The number of arguments, they and NULL, the environment and NULL, and then pairs of type and value. */
    at += sizeof(long) * (1 + peek(tid, at) + 1);
    while (peek(tid, at) != 0)
        at += sizeof(long);
    for (at += sizeof(long); (type = peek(tid, at)) != AT_NULL; at += 2 * sizeof(long)) {
        if (type != AT_SYSINFO_EHDR)
            continue;
        if (ptrace(PTRACE_POKEDATA, tid, peek(tid, at + sizeof(long)), 0) != 0
            || ptrace(PTRACE_POKEDATA, tid, at, AT_IGNORE) != 0)
            fail("the vDSO");
    }
}

/* A system call begins or has returned. */
static void called(pid_t tid)
{
    struct asked *one = of(tid);
    struct call call;

    if (!info(tid, &call))
        return;
    if (call.op == ENTRY) {
        one->is_clock = call.entry.nr == SYS_clock_gettime;
        one->clock = call.entry.args[0];
        one->at = call.entry.args[1];
    } else if (call.op == EXIT && one->is_clock && call.exit.rval == 0) {
        long more = seconds(one->clock);

        if (more != 0)
            ptrace(PTRACE_POKEDATA, tid, one->at, peek(tid, one->at) + more);
    }
}

int main(int argc, char **argv)
{
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK
        | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
    int go[2], status, code = 1;
    pid_t first, tid;
    char byte;

    if (argc < 3) {
        fputs("clock FILE PROGRAM [ARGUMENT]...\n", stderr);
        return 2;
    }
    file = argv[1];
    if (pipe2(go, O_CLOEXEC) != 0 || (first = fork()) < 0)
        fail("fork");
    if (first == 0) {
        close(go[1]);
        if (read(go[0], &byte, 1) == 1)
            execvp(argv[2], &argv[2]);
        fail(argv[2]);
    }
    if (ptrace(PTRACE_SEIZE, first, NULL, options) != 0 || write(go[1], "", 1) != 1)
        fail("PTRACE_SEIZE");
    close(go[0]);
    close(go[1]);
    while ((tid = waitpid(-1, &status, __WALL)) > 0) {
        int event = status >> 16, number = 0;

        if (!WIFSTOPPED(status)) {
            if (tid == first)
                code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            of(tid)->tid = 0;
            continue;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80))
            called(tid);
        else if (event == PTRACE_EVENT_EXEC)
            hide(tid);
        else if (event == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP) {
            /* It is stopped as by a shell, and stays so. */
            ptrace(PTRACE_LISTEN, tid, NULL, NULL);
            continue;
        } else if (event == 0)
            number = WSTOPSIG(status);
        ptrace(PTRACE_SYSCALL, tid, NULL, number);
    }
    return code;
}
