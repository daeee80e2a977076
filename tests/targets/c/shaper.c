/* A bad link: two TAP devices called agent0, one in each of the network namespaces NAMED A and B (ip-netns(8)), and all
 * frames between them delayed by DELAY microseconds, each way. Of the frames from A to B, and from B to A, that are
 * longer than 200 bytes every LOSE-th is lost and every OVERTAKE-th is held back for 3 ms more, so that later ones
 * overtake it (0: none). What tc-netem(8) does, but the same each time, and on kernels without it.
 *
 *   shaper A B DELAY LOSE OVERTAKE
 *
 * For each line on standard input it says how many frames there were: sent, lost, overtaken.
 */
#include "truth.h"

#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <time.h>

enum { LARGEST = 2048, MOST = 16384, LARGE = 200, HELD_BACK = 3000 };

struct frame {
    long long due;
    unsigned number;
    int length, to;
    unsigned char bytes[LARGEST];
};

/* A heap, the frame that is due first at the top. */
static struct frame *queue[MOST];
static unsigned queued;

static long long now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000LL + time.tv_nsec / 1000;
}

static int is_before(unsigned a, unsigned b)
{
    if (queue[a]->due != queue[b]->due)
        return queue[a]->due < queue[b]->due;
    return queue[a]->number < queue[b]->number;
}

static void swap(unsigned a, unsigned b)
{
    struct frame *frame = queue[a];

    queue[a] = queue[b];
    queue[b] = frame;
}

static void push(struct frame *frame)
{
    unsigned at = queued++;

    queue[at] = frame;
    for (; at > 0 && is_before(at, (at - 1) / 2); at = (at - 1) / 2)
        swap(at, (at - 1) / 2);
}

static struct frame *pop(void)
{
    struct frame *first = queue[0];
    unsigned at = 0;

    queue[0] = queue[--queued];
    for (;;) {
        unsigned child = 2 * at + 1;

        if (child + 1 < queued && is_before(child + 1, child))
            child++;
        if (child >= queued || !is_before(child, at))
            return first;
        swap(at, child);
        at = child;
    }
}

static int device(const char *namespace)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    char path[256];
    int file;

    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || setns(file, CLONE_NEWNET) != 0)
        fail(path);
    close(file);
    file = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    strcpy(request.ifr_name, "agent0");
    if (file < 0 || ioctl(file, TUNSETIFF, &request) != 0)
        fail("TUNSETIFF");
    return file;
}

int main(int argc, char **argv)
{
    long delay, lose, overtake, large[2] = {0, 0};
    unsigned long sent = 0, lost = 0, overtaken = 0;
    unsigned number = 0;
    int devices[2];

    if (argc != 6)
        return 2;
    delay = atol(argv[3]);
    lose = atol(argv[4]);
    overtake = atol(argv[5]);
    devices[0] = device(argv[1]);
    devices[1] = device(argv[2]);
    ready();
    for (;;) {
        struct pollfd files[3] = {
            {.fd = devices[0], .events = POLLIN},
            {.fd = devices[1], .events = POLLIN},
            {.fd = STDIN_FILENO, .events = POLLIN},
        };
        struct timespec pause = {.tv_sec = 1};

        if (queued > 0) {
            long long left = queue[0]->due - now();

            left = left < 0 ? 0 : left;
            pause.tv_sec = left / 1000000;
            pause.tv_nsec = left % 1000000 * 1000;
        }
        if (ppoll(files, 3, &pause, NULL) < 0 && errno != EINTR)
            fail("ppoll");
        for (int from = 0; from < 2; from++) {
            while (queued < MOST) {
                struct frame *frame = malloc(sizeof *frame);

                if (frame == NULL)
                    fail("malloc");
                frame->length = (int)read(devices[from], frame->bytes, sizeof frame->bytes);
                /* EIO: not up yet. */
                if (frame->length <= 0) {
                    free(frame);
                    break;
                }
                frame->to = 1 - from;
                frame->number = number++;
                frame->due = now() + delay;
                if (frame->length > LARGE) {
                    large[from]++;
                    if (lose > 0 && large[from] % lose == 0) {
                        lost++;
                        free(frame);
                        continue;
                    }
                    if (overtake > 0 && large[from] % overtake == 0) {
                        overtaken++;
                        frame->due += HELD_BACK;
                    }
                }
                push(frame);
            }
        }
        while (queued > 0 && queue[0]->due <= now()) {
            struct frame *frame = pop();

            if (write(devices[frame->to], frame->bytes, (size_t)frame->length) == frame->length)
                sent++;
            free(frame);
        }
        if (files[2].revents != 0) {
            next_line();
            say("{'sent':%lu,'lost':%lu,'overtaken':%lu}", sent, lost, overtaken);
            ready();
        }
    }
}
