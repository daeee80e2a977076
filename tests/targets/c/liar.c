/* Threads whose stack pointers and frame pointers lie. Each spins, or waits in pause(2), with what its case says:
 *   null       both are 0;
 *   top        both are at the end of the address space, or in the kernel's half;
 *   unmapped   both point where nothing is mapped;
 *   end        both point at the last word of a mapping;
 *   noaccess   both point at memory that may not be read;
 *   cycle      a chain of frame pointers that leads back to itself, with return addresses behind real calls;
 *   upwards    a chain of a million frames, each with a real return address;
 *   code       both point into this program's code;
 *   other      both are those of another thread that waits.
 * No signal may reach them. Truth: tid, name (the case, with "-spin" or "-wait"). x86-64 alone.
 */
#include "truth.h"

#include <pthread.h>
#include <sys/mman.h>

#define PAGE 4096UL

struct lie {
    const char *name;
    int waits;
    unsigned long sp, fp;
    _Atomic pid_t tid;
};

static void *real_return;

static NAMED void remember(void)
{
    real_return = __builtin_return_address(0);
}

static void *lie_main(void *given)
{
    struct lie *lie = given;
    char name[16];

    snprintf(name, sizeof name, "%.10s-%s", lie->name, lie->waits ? "wait" : "spin");
    prctl(PR_SET_NAME, name);
    lie->tid = (pid_t)syscall(SYS_gettid);
    if (lie->waits)
        __asm__ volatile("mov %0, %%rsp\n\tmov %1, %%rbp\n1:\tmov %2, %%eax\n\tsyscall\n\tjmp 1b"
                         :
                         : "r"(lie->sp), "r"(lie->fp), "i"(SYS_pause)
                         : "rax", "rcx", "r11", "memory");
    else
        __asm__ volatile("mov %0, %%rsp\n\tmov %1, %%rbp\n1:\tpause\n\tjmp 1b" : : "r"(lie->sp), "r"(lie->fp) : "memory");
    __builtin_unreachable();
}

static char *map(size_t bytes, int access)
{
    char *at = mmap(NULL, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        fail("mmap");
    return at;
}

static void *rests(void *where)
{
    *(void *volatile *)where = __builtin_frame_address(0);
    for (;;)
        pause();
    return NULL;
}

int main(void)
{
    enum { MANY = 1000000 };
    static void *volatile resting;
    unsigned long *cycle = (unsigned long *)map(PAGE, PROT_READ | PROT_WRITE);
    unsigned long *up = (unsigned long *)map(16UL * MANY + PAGE, PROT_READ | PROT_WRITE);
    char *hole = map(3 * PAGE, PROT_READ | PROT_WRITE), *closed = map(4 * PAGE, PROT_NONE);
    pthread_t thread;
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    remember();
    if (pthread_create(&thread, NULL, rests, (void *)&resting) != 0)
        fail("pthread_create");
    while (resting == NULL)
        usleep(1000);
    for (int i = 0; i < 2; i++) {
        cycle[2 * i] = (unsigned long)&cycle[2 * (1 - i)];
        cycle[2 * i + 1] = (unsigned long)real_return;
    }
    for (unsigned long i = 0; i < MANY; i++) {
        up[2 * i] = (unsigned long)&up[2 * (i + 1)];
        up[2 * i + 1] = (unsigned long)real_return;
    }
    munmap(hole + PAGE, PAGE);
    struct lie lies[] = {
        {"null", 0, 0, 0, 0},
        {"null", 1, 0, 0, 0},
        {"top", 0, ~7UL, ~7UL, 0},
        {"top", 1, 0x7ffffffffff8UL, 0xffffffff81000000UL, 0},
        {"unmapped", 0, (unsigned long)hole + PAGE, (unsigned long)hole + PAGE, 0},
        {"unmapped", 1, (unsigned long)hole + PAGE, (unsigned long)hole + PAGE, 0},
        {"end", 0, (unsigned long)hole + PAGE - 8, (unsigned long)hole + PAGE - 8, 0},
        {"end", 1, (unsigned long)hole + PAGE - 8, (unsigned long)hole + PAGE - 8, 0},
        {"noaccess", 0, (unsigned long)closed, (unsigned long)closed, 0},
        {"noaccess", 1, (unsigned long)closed, (unsigned long)closed, 0},
        {"cycle", 0, (unsigned long)cycle, (unsigned long)cycle, 0},
        {"cycle", 1, (unsigned long)cycle, (unsigned long)cycle, 0},
        {"upwards", 0, (unsigned long)up, (unsigned long)up, 0},
        {"upwards", 1, (unsigned long)up, (unsigned long)up, 0},
        {"code", 0, (unsigned long)main, (unsigned long)main, 0},
        {"code", 1, (unsigned long)main, (unsigned long)main, 0},
        {"other", 0, (unsigned long)resting, (unsigned long)resting, 0},
        {"other", 1, (unsigned long)resting, (unsigned long)resting, 0},
    };
    enum { LIES = sizeof lies / sizeof *lies };

    for (int i = 0; i < LIES; i++) {
        if (pthread_create(&thread, NULL, lie_main, &lies[i]) != 0)
            fail("pthread_create");
        while (lies[i].tid == 0)
            usleep(1000);
        if (lies[i].waits)
            await_call(lies[i].tid, SYS_pause);
        say("{'tid':%d,'name':'%.10s-%s'}", lies[i].tid, lies[i].name, lies[i].waits ? "wait" : "spin");
    }
    stay();
}
