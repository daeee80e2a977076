/* Children whose names and arguments are hostile. Each line of truth is one of them:
 *
 *   case      what is odd about it
 *   pid
 *   name_hex  its comm, cut to 15 bytes as the kernel does
 *   args_hex  its arguments, as /proc/PID/cmdline has them now
 *
 * A child is this program again, told by the environment which one it is. "rewritten" has overwritten its arguments
 * as setproctitle does, with NUL up to their end; "overflown" with a text that runs into the environment.
 */
#include "truth.h"

#define MOST_ARGS 4

struct odd {
    const char *what;
    const char *name;
    const char *args[MOST_ARGS + 1];
};

static char long_argument[4096 + 1];

static const struct odd CASES[] = {
    {"newline", "new\nline", {"new\nline", "a\nb", "\n", NULL}},
    {"tab_and_return", "\ttab\rreturn", {"\r\r\r", "\t", NULL}},
    {"escape", "\033[31mred\033[0m", {"\033]0;title\007", "\033[2J\033[H", "\033[31mred", NULL}},
    {"control", "\001\002\037\177", {"\b\b\b", "\302\2332J", NULL}},
    {"invalid_utf8", "\377\376\200bad", {"\303(", "\355\240\200", "\xff", NULL}},
    {"cut_utf8", "12345678901234\303\251", {"caf\303\251", "\346\227\245\346\234\254", NULL}},
    {"deceptive", "a\342\200\256txt.b", {"\342\200\213", "\357\273\277", "\342\200\250", NULL}},
    {"parenthesis", "a) R 1 (b", {") Z 1 2 3 (", NULL}},
    {"backslash", "\\x1b\\\\", {"\\x0a", "\\", "\\\\x", NULL}},
    {"quotes", "\"name\":'x'", {"\"", "{}", "';", NULL}},
    {"long", "a-name-of-more-than-fifteen-bytes", {"long", long_argument, NULL}},
    {"empty_arguments", "empty", {"", "", "last", "", NULL}},
    {"no_arguments", "none", {NULL}},
    {"spaces", " a b ", {" ", "a  b", NULL}},
    {"rewritten", "rewritten", {"names", "a rather long argument", "end", NULL}},
    {"overflown", "overflown", {"names", "-g", NULL}},
};
#define COUNT (sizeof CASES / sizeof *CASES)
static const char PADDED[] = "names: worker 3";
static const char OVERFLOWN[] = "names: main process with a title of some length";

/* Starts over as case `index`. It says on `done` when it is. */
static void become(size_t index, int done)
{
    char which[32], written[32];
    char *const environment[] = {which, written, "FILL=so that there is room for a title", NULL};

    snprintf(which, sizeof which, "CASE=%zu", index);
    snprintf(written, sizeof written, "DONE=%d", done);
    execve("/proc/self/exe", (char *const *)CASES[index].args, environment);
    fail("execve");
}

/* Runs as a case, and does not return. */
static void be(const struct odd *odd, int done, char **argv)
{
    if (prctl(PR_SET_NAME, odd->name) != 0)
        fail("PR_SET_NAME");
    if (strcmp(odd->what, "rewritten") == 0) {
        size_t room = strlen(argv[0]) + strlen(argv[1]) + strlen(argv[2]) + 3;

        memset(argv[0], 0, room);
        memcpy(argv[0], PADDED, sizeof PADDED);
    }
    if (strcmp(odd->what, "overflown") == 0)
        memcpy(argv[0], OVERFLOWN, sizeof OVERFLOWN);
    if (write(done, "!", 1) != 1)
        fail("write");
    close(done);
    for (;;)
        pause();
}

static void claim(const struct odd *odd, pid_t pid)
{
    size_t length = strlen(odd->name);
    char *name = hex(odd->name, length > 15 ? 15 : length);
    char args[2 * sizeof long_argument + 256] = "";
    char *end = args;

    if (strcmp(odd->what, "rewritten") == 0) {
        size_t room = 3;

        for (size_t i = 0; odd->args[i] != NULL; i++)
            room += strlen(odd->args[i]);
        end += sprintf(end, "\"%s\"", hex(PADDED, strlen(PADDED)));
        for (size_t empty = room - sizeof PADDED; empty > 0; empty--)
            end += sprintf(end, ",\"\"");
    } else if (strcmp(odd->what, "overflown") == 0) {
        sprintf(args, "\"%s\"", hex(OVERFLOWN, strlen(OVERFLOWN)));
    } else if (odd->args[0] == NULL) {
        /* Since Linux 5.18 nobody is without: execve(2) puts an empty one. */
        sprintf(args, "\"\"");
    } else {
        for (size_t i = 0; odd->args[i] != NULL; i++)
            end += sprintf(end, "%s\"%s\"", i == 0 ? "" : ",", hex(odd->args[i], strlen(odd->args[i])));
    }
    say("{'case':'%s','pid':%d,'name_hex':'%s','args_hex':[%s]}", odd->what, pid, name, args);
    free(name);
}

int main(int argc, char **argv)
{
    const char *which = getenv("CASE"), *done = getenv("DONE");
    pid_t parent = getpid();

    (void)argc;
    memset(long_argument, 'x', sizeof long_argument - 1);
    if (which != NULL && done != NULL)
        be(&CASES[strtoul(which, NULL, 10)], atoi(done), argv);
    for (size_t i = 0; i < COUNT; i++) {
        int ends[2];
        pid_t pid;
        char c;

        if (pipe(ends) != 0 || (pid = fork()) < 0)
            fail("fork");
        if (pid == 0) {
            end_with_parent(parent);
            close(ends[0]);
            become(i, ends[1]);
        }
        close(ends[1]);
        if (read(ends[0], &c, 1) != 1)
            fail("a child did not start");
        close(ends[0]);
        claim(&CASES[i], pid);
    }
    stay();
}
