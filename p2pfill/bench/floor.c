/* The floor of one pair: the least that any program can do that sends a file, hashes it and writes it.
 *
 *   floor serve SOURCE                      prints its port, sends SOURCE to whoever connects, one after the other
 *   floor fetch PORT SIZE TARGET [synced]   fetches SIZE bytes over one connection, prints their XXH3-128
 *
 * The sender uses sendfile from the page cache. The receiver reads into a buffer that stays in the processor's cache,
 * hashes it there and writes it to TARGET, whose room is reserved; with `synced` it ends when all is on the disk.
 */
#define _GNU_SOURCE
#define XXH_INLINE_ALL
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "xxhash.h"

enum { SLICE_BYTES = 256 * 1024, SEND_BYTES = 4 * 1024 * 1024 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void serve(const char *path) {
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    struct stat source;
    int listener = socket(AF_INET, SOCK_STREAM, 0), file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &source)) die(path);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 8)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int sock = accept(listener, NULL, NULL);
        if (sock < 0) die("accept");
        for (off_t at = 0; at < source.st_size;)
            if (sendfile(sock, file, &at, SEND_BYTES) <= 0) break;
        close(sock);
    }
}

static void fetch(int port, off_t size, const char *path, int synced) {
    struct sockaddr_in address = loopback(port);
    int sock = socket(AF_INET, SOCK_STREAM, 0), file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    void *buffer = aligned_alloc(4096, SLICE_BYTES);
    XXH3_state_t *state = XXH3_createState();
    if (file < 0 || !buffer || !state) die(path);
    if (connect(sock, (struct sockaddr *)&address, sizeof address)) die("connect");
    if (posix_fallocate(file, 0, size)) die("fallocate");
    XXH3_128bits_reset(state);
    for (off_t at = 0; at < size;) {
        ssize_t got = recv(sock, buffer, SLICE_BYTES, 0);
        if (got <= 0) die("recv");
        XXH3_128bits_update(state, buffer, (size_t)got);
        if (pwrite(file, buffer, (size_t)got, at) != got) die("pwrite");
        at += got;
    }
    if (synced && fdatasync(file)) die("fdatasync");
    XXH128_hash_t digest = XXH3_128bits_digest(state);
    printf("%016llx%016llx\n", (unsigned long long)digest.high64, (unsigned long long)digest.low64);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) serve(argv[2]);
    if (argc < 5 || strcmp(argv[1], "fetch")) {
        fputs("usage: floor serve SOURCE | floor fetch PORT SIZE TARGET [synced]\n", stderr);
        return 2;
    }
    fetch(atoi(argv[2]), atoll(argv[3]), argv[4], argc > 5);
    return 0;
}
