/* Stands in for the application: tells when its first instruction ran, and what it was told.
 *
 * Linked statically, so that no dynamic linker is in between: what remains before `main` is some tens of
 * microseconds of the C library's own.
 */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(void)
{
    struct timespec monotonic, realtime;
    const char *outcome;

    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    clock_gettime(CLOCK_REALTIME, &realtime);
    outcome = getenv("ENTRYPOINT_OUTCOME");
    printf("first-instruction %lld%09ld %lld%09ld %s\n", (long long)monotonic.tv_sec, monotonic.tv_nsec,
           (long long)realtime.tv_sec, realtime.tv_nsec, outcome ? outcome : "-");
    return 0;
}
