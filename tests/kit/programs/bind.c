/*
 * Listens on the port in argv[1] without SO_REUSEADDR, once on each kind of address, without retrying. Prints "free",
 * or the address and the reason. So it shows what a simple application would find.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int attempt(const char *name, int family, const void *address, socklen_t length)
{
    int descriptor = socket(family, SOCK_STREAM, 0);
    int failed = descriptor < 0 || bind(descriptor, address, length) != 0 || listen(descriptor, 8) != 0;

    if (failed && errno != EAFNOSUPPORT) {
        printf("%s: %s\n", name, strerror(errno));
        return 1;
    }
    close(descriptor);
    return 0;
}

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 0;
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT};
    int failed;

    failed = attempt("0.0.0.0", AF_INET, &four, sizeof four);
    failed |= attempt("[::]", AF_INET6, &six, sizeof six);
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    failed |= attempt("127.0.0.1", AF_INET, &four, sizeof four);
    if (!failed)
        printf("free\n");
    return failed;
}
