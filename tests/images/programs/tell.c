/* An application that prints what it finds: its command line, its environment, and what is mapped into its memory. */

#include <fcntl.h>
#include <unistd.h>

static void copy(const char *path)
{
    char bytes[4096];
    int file = open(path, O_RDONLY);
    for (long count; file >= 0 && (count = read(file, bytes, sizeof bytes)) > 0;)
        write(1, bytes, count);
    close(file);
    write(1, "\n---\n", 5);
}

int main(void)
{
    copy("/proc/self/cmdline");
    copy("/proc/self/environ");
    copy("/proc/self/maps");
    return 0;
}
