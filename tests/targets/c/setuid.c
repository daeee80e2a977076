/* Children that have changed who they are; needs root. Truth, by `case`:
 *
 *   split       real, effective and saved IDs differ: those of the arguments RUID EUID SUID RGID EGID SGID, by default
 *               1001 1002 1003 2001 2002 2003
 *   dropped     all IDs 1000, and dumpable again
 *   undumpable  all IDs 1000, and not dumpable
 *
 * with pid, uid and gid (each real, effective, saved) and dumpable.
 */
#include "truth.h"

#include <grp.h>

struct ids {
    unsigned real, effective, saved;
};

static void child(const char *name, struct ids uid, struct ids gid, int dumpable)
{
    int ends[2], is;
    pid_t parent = getpid(), pid;
    char c;

    if (pipe(ends) != 0 || (pid = fork()) < 0)
        fail("fork");
    if (pid == 0) {
        close(ends[0]);
        if (setgroups(0, NULL) != 0 || setresgid(gid.real, gid.effective, gid.saved) != 0
            || setresuid(uid.real, uid.effective, uid.saved) != 0 || prctl(PR_SET_DUMPABLE, dumpable) != 0)
            fail("setresuid");
        /* After the change of IDs, which clears it. */
        end_with_parent(parent);
        prctl(PR_SET_NAME, name);
        is = prctl(PR_GET_DUMPABLE) == 1;
        c = (char)('0' + is);
        if (write(ends[1], &c, 1) != 1)
            fail("write");
        close(ends[1]);
        for (;;)
            pause();
    }
    close(ends[1]);
    if (read(ends[0], &c, 1) != 1)
        fail("a child did not start");
    close(ends[0]);
    say("{'case':'%s','pid':%d,'uid':{'real':%u,'effective':%u,'saved':%u},"
        "'gid':{'real':%u,'effective':%u,'saved':%u},'dumpable':%s}",
        name, pid, uid.real, uid.effective, uid.saved, gid.real, gid.effective, gid.saved, c == '1' ? "true" : "false");
}

int main(int argc, char **argv)
{
    unsigned id[6] = {1001, 1002, 1003, 2001, 2002, 2003};
    const struct ids user = {1000, 1000, 1000};

    for (int i = 1; i < argc && i <= 6; i++)
        id[i - 1] = (unsigned)strtoul(argv[i], NULL, 10);
    child("split", (struct ids){id[0], id[1], id[2]}, (struct ids){id[3], id[4], id[5]}, 0);
    child("dropped", user, user, 1);
    child("undumpable", user, user, 0);
    stay();
}
