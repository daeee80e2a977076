/* A process whose first thread has ended: /proc/PID/fd is empty then, and that of the other thread is not. Truth: one
 * line with fd and inode of a listening socket. */
#include "truth.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

static pid_t first;

static void *rest(void *unused UNUSED)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char path[64], text[256];
    struct stat status;

    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) != 0 || listen(fd, 1) != 0 || fstat(fd, &status) != 0)
        fail("socket");
    // Until the first thread is a zombie.
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", first);
    for (;;) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = read(file, text, sizeof text - 1);

        close(file);
        text[length < 0 ? 0 : length] = '\0';
        if (strstr(text, ") Z ") != NULL)
            break;
        usleep(1000);
    }
    say("{'fd':%d,'inode':'%lu'}", fd, (unsigned long)status.st_ino);
    stay();
    return NULL;
}

int main(void)
{
    pthread_t other;

    first = getpid();
    if (pthread_create(&other, NULL, rest, NULL) != 0)
        fail("pthread_create");
    pthread_exit(NULL);
}
