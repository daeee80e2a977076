/* A process whose executable is not what its path says. The first argument says how:
 *
 *   unlinked   (default) it runs a copy of itself that was deleted
 *   replaced   it runs a copy, and another file has been moved to its path, as package managers do
 *   linked     its path was deleted, but the file has another name
 *   lookalike  the copy is still there, and its name ends in " (deleted)"
 *
 * Truth: pid, executable_hex (the path that it was started by), deleted (whether that path no longer leads to it).
 * It removes what it made in $TMPDIR when standard input is closed.
 */
#include "truth.h"

#include <sys/stat.h>

static void copy_self(const char *to)
{
    char buffer[65536];
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    ssize_t length;

    if (from < 0 || out < 0)
        fail(to);
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, length) != length)
            fail(to);
    close(from);
    close(out);
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "unlinked", *path = getenv("COPY");
    char directory[512], file[600], other[600];
    char *digits;
    int deleted = strcmp(how, "lookalike") != 0;

    if (path == NULL) {
        const char *base = getenv("TMPDIR");

        snprintf(directory, sizeof directory, "%s/deleted_exe.XXXXXX", base != NULL ? base : "/tmp");
        if (mkdtemp(directory) == NULL)
            fail(directory);
        snprintf(file, sizeof file, "%s/%s", directory, deleted ? "copy" : "copy (deleted)");
        copy_self(file);
        setenv("COPY", file, 1);
        execv(file, argv);
        fail(file);
    }
    snprintf(file, sizeof file, "%s", path);
    snprintf(other, sizeof other, "%s.other", path);
    snprintf(directory, sizeof directory, "%s", path);
    *strrchr(directory, '/') = '\0';
    if (strcmp(how, "linked") == 0 && link(file, other) != 0)
        fail(other);
    if (strcmp(how, "replaced") == 0) {
        copy_self(other);
        if (rename(other, file) != 0)
            fail(file);
    } else if (deleted && unlink(file) != 0) {
        fail(file);
    }
    digits = hex(file, strlen(file));
    say("{'pid':%d,'executable_hex':'%s','deleted':%s}", getpid(), digits, deleted ? "true" : "false");
    ready();
    while (read(STDIN_FILENO, file, sizeof file) > 0)
        ;
    unlink(path);
    unlink(other);
    rmdir(directory);
    return 0;
}
