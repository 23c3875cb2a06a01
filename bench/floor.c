/* The floor of one pair: the least that any program can do that sends a file, hashes it and writes it.
 *
 *   floor SOURCE TARGET
 *
 * A child sends SOURCE with sendfile over one loopback connection; the parent receives into a warm buffer, hashes it
 * with XXH3-128 and writes TARGET, which is preallocated. Prints one JSON object: seconds, bytes, processor seconds of
 * both sides, digest.
 */
#define _GNU_SOURCE
#define XXH_INLINE_ALL
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "xxhash.h"

enum { SLICE_BYTES = 256 * 1024, SEND_BYTES = 4 * 1024 * 1024 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double cpu_s(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void send_all(int listener, const char *path, off_t size) {
    int sock = accept(listener, NULL, NULL), file = open(path, O_RDONLY);
    off_t at = 0;
    if (sock < 0 || file < 0) die("sender");
    while (at < size)
        if (sendfile(sock, file, &at, SEND_BYTES) <= 0) die("sendfile");
    exit(0);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct timespec began, ended;
    struct stat source;
    if (argc != 3 || stat(argv[1], &source)) die("usage: floor SOURCE TARGET");
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    clock_gettime(CLOCK_MONOTONIC, &began);
    if (fork() == 0) send_all(listener, argv[1], source.st_size);

    int sock = socket(AF_INET, SOCK_STREAM, 0);
    int file = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0644);
    void *buffer = aligned_alloc(4096, SLICE_BYTES);
    XXH3_state_t *state = XXH3_createState();
    if (connect(sock, (struct sockaddr *)&address, length) || file < 0 || !buffer || !state) die("receiver");
    if (posix_fallocate(file, 0, source.st_size)) die("fallocate");
    XXH3_128bits_reset(state);
    for (off_t at = 0; at < source.st_size;) {
        ssize_t got = recv(sock, buffer, SLICE_BYTES, 0);
        if (got <= 0) die("recv");
        XXH3_128bits_update(state, buffer, (size_t)got);
        if (pwrite(file, buffer, (size_t)got, at) != got) die("pwrite");
        at += got;
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    XXH128_hash_t digest = XXH3_128bits_digest(state);
    wait(NULL);
    printf("{\"seconds\": %.6f, \"bytes\": %lld, \"receiver_cpu_s\": %.6f, \"sender_cpu_s\": %.6f, "
           "\"xxh3\": \"%016llx%016llx\"}\n",
           (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9,
           (long long)source.st_size, cpu_s(RUSAGE_SELF), cpu_s(RUSAGE_CHILDREN),
           (unsigned long long)digest.high64, (unsigned long long)digest.low64);
    return 0;
}
