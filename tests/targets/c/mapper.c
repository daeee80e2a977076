/* Maps each file that its arguments name, as a loader would: FILE OFFSET …, where at OFFSET in the file there is a
 * function that calls the function it is given. A thread for each goes through that function, and then waits in
 * `wait_here`. Truth: tid, name (file-NUMBER). x86-64 alone.
 */
#include "truth.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct one {
    void (*through)(void (*)(void));
    char name[16];
    _Atomic pid_t tid;
    pthread_t thread;
};

static int input;

static NAMED void wait_here(void)
{
    char byte;

    while (read(input, &byte, 1) < 0)
        ;
    STAYS();
}

static NAMED void *enter(void *given)
{
    struct one *one = given;

    prctl(PR_SET_NAME, one->name);
    one->tid = (pid_t)syscall(SYS_gettid);
    one->through(wait_here);
    STAYS();
    return NULL;
}

int main(int count, char **arguments)
{
    struct one *all = calloc((size_t)count, sizeof *all);
    int pipes[2];

    if (all == NULL || pipe(pipes) != 0)
        fail("pipe");
    input = pipes[0];
    say("{'files': %d}", count / 2);
    for (int at = 1; at + 1 < count; at += 2) {
        struct one *one = &all[at];
        struct stat stat;
        int file = open(arguments[at], O_RDONLY | O_CLOEXEC);

        if (file < 0 || fstat(file, &stat) != 0)
            fail(arguments[at]);
        char *base = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
        if (base == MAP_FAILED)
            fail("mmap");
        close(file);
        *(void **)&one->through = base + strtoul(arguments[at + 1], NULL, 0);
        snprintf(one->name, sizeof one->name, "file-%d", at / 2);
        if (pthread_create(&one->thread, NULL, enter, one) != 0)
            fail("pthread_create");
        while (one->tid == 0)
            usleep(1000);
        await_call(one->tid, SYS_read);
        say("{'tid': %d, 'name': '%s'}", one->tid, one->name);
    }
    stay();
}
