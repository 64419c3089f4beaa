/* Prints, as one JSON object, everything that a program can observe about how it was started.
 *
 * A program that `entrypoint run` has exec'ed must print the same as one that is started directly. The environment and
 * the arguments are in hexadecimal, because they need not be UTF-8.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void hex(const char *bytes)
{
    putchar('"');
    for (; *bytes; bytes++)
        printf("%02x", (unsigned char) *bytes);
    putchar('"');
}

static void hex_list(const char *name, char **list)
{
    printf("\"%s\": [", name);
    for (char **entry = list; *entry; entry++) {
        if (entry != list)
            printf(", ");
        hex(*entry);
    }
    printf("],\n");
}

static void text(const char *bytes)
{
    putchar('"');
    for (; *bytes; bytes++) {
        unsigned char byte = (unsigned char) *bytes;
        if (byte == '"' || byte == '\\' || byte < 0x20 || byte > 0x7e)
            printf("\\u%04x", byte);
        else
            putchar(byte);
    }
    putchar('"');
}

/* The lines of /proc/self/status that are inherited. SigPnd is the thread's, ShdPnd the process's. */
static void proc_status(void)
{
    static const char *wanted[] = {"SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Seccomp",
                                   "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Threads", "TracerPid"};
    char line[4096];
    FILE *status = fopen("/proc/self/status", "r");
    if (!status)
        exit(3);
    while (fgets(line, sizeof line, status)) {
        char *value = strchr(line, ':');
        if (!value)
            continue;
        *value++ = '\0';
        value += strspn(value, " \t");
        value[strcspn(value, "\n")] = '\0';
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            if (strcmp(line, wanted[i]) == 0)
                printf("\"%s\": \"%s\",\n", line, value);
    }
    fclose(status);
}

static int by_number(const void *left, const void *right)
{
    return *(const int *) left - *(const int *) right;
}

static void descriptors(void)
{
    int numbers[4096], count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory)
        exit(3);
    for (struct dirent *entry; (entry = readdir(directory));) {
        int number = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && number != dirfd(directory) && count < 4096)
            numbers[count++] = number;
    }
    closedir(directory);
    qsort(numbers, (size_t) count, sizeof *numbers, by_number);

    printf("\"fds\": [");
    for (int i = 0; i < count; i++) {
        char path[64], target[PATH_MAX + 1];
        snprintf(path, sizeof path, "/proc/self/fd/%d", numbers[i]);
        ssize_t length = readlink(path, target, PATH_MAX);
        target[length < 0 ? 0 : length] = '\0';
        printf("%s{\"fd\": %d, \"target\": ", i ? ", " : "", numbers[i]);
        text(target);
        /* The flags include O_NONBLOCK and O_APPEND, which are shared by all users of the open file. */
        printf(", \"flags\": %d, \"fd_flags\": %d}", fcntl(numbers[i], F_GETFL), fcntl(numbers[i], F_GETFD));
    }
    printf("],\n");
}

static void limits(void)
{
    static const struct { const char *name; int number; } known[] = {
        {"AS", RLIMIT_AS}, {"CORE", RLIMIT_CORE}, {"CPU", RLIMIT_CPU}, {"DATA", RLIMIT_DATA},
        {"FSIZE", RLIMIT_FSIZE}, {"LOCKS", RLIMIT_LOCKS}, {"MEMLOCK", RLIMIT_MEMLOCK},
        {"MSGQUEUE", RLIMIT_MSGQUEUE}, {"NICE", RLIMIT_NICE}, {"NOFILE", RLIMIT_NOFILE},
        {"NPROC", RLIMIT_NPROC}, {"RSS", RLIMIT_RSS}, {"RTPRIO", RLIMIT_RTPRIO}, {"RTTIME", RLIMIT_RTTIME},
        {"SIGPENDING", RLIMIT_SIGPENDING}, {"STACK", RLIMIT_STACK},
    };
    printf("\"limits\": {");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct rlimit limit;
        if (getrlimit(known[i].number, &limit))
            exit(3);
        printf("%s\"%s\": [%lld, %lld]", i ? ", " : "", known[i].name,
               (long long) limit.rlim_cur, (long long) limit.rlim_max);
    }
    printf("},\n");
}

/* setitimer(2)'s timers and the alarm survive exec. */
static void timers(void)
{
    static const int kinds[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
    printf("\"timers\": [");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct itimerval timer;
        getitimer(kinds[i], &timer);
        printf("%s%s", i ? ", " : "", timer.it_value.tv_sec || timer.it_value.tv_usec ? "true" : "false");
    }
    printf("],\n");
}

static void identity(void)
{
    gid_t groups[1024];
    uid_t real, effective, saved;
    gid_t greal, geffective, gsaved;
    int count = getgroups(1024, groups);
    getresuid(&real, &effective, &saved);
    getresgid(&greal, &geffective, &gsaved);
    printf("\"uids\": [%u, %u, %u],\n\"gids\": [%u, %u, %u],\n\"groups\": [",
           real, effective, saved, greal, geffective, gsaved);
    for (int i = 0; i < count; i++)
        printf("%s%u", i ? ", " : "", groups[i]);
    printf("],\n");
}

int main(int argc, char **argv)
{
    char cwd[PATH_MAX];
    int death_signal = 0, subreaper = 0, child_status;
    cpu_set_t processors;
    mode_t mask = umask(0);

    umask(mask);
    if (!getcwd(cwd, sizeof cwd))
        exit(3);
    prctl(PR_GET_PDEATHSIG, &death_signal);
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    if (sched_getaffinity(0, sizeof processors, &processors))
        exit(3);
    /* Is there a child left, running or dead? WNOWAIT does not reap it. */
    siginfo_t child = {0};
    child_status = waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) ? errno : 0;

    printf("{\"pid\": %d,\n\"ppid\": %d,\n\"pgid\": %d,\n\"sid\": %d,\n\"argc\": %d,\n",
           getpid(), getppid(), getpgrp(), getsid(0), argc);
    proc_status();
    printf("\"umask\": %u,\n\"cwd\": ", mask);
    text(cwd);
    printf(",\n");
    hex_list("argv", argv);
    hex_list("environ", environ);
    descriptors();
    limits();
    timers();
    identity();
    printf("\"children\": %s,\n", child_status == ECHILD ? "false" : "true");
    printf("\"nice\": %d,\n\"scheduler\": %d,\n\"processors\": %d,\n\"timer_slack\": %d,\n",
           getpriority(PRIO_PROCESS, 0), sched_getscheduler(0), CPU_COUNT(&processors), prctl(PR_GET_TIMERSLACK));
    printf("\"death_signal\": %d,\n\"subreaper\": %d,\n\"dumpable\": %d,\n\"personality\": %d\n}\n",
           death_signal, subreaper, prctl(PR_GET_DUMPABLE), personality(0xffffffff));
    return fflush(stdout) ? 4 : 0;
}
