/* The floor of a fleet: what moving its bytes over the lab's links costs at least, with so many sources at once.
 *
 *   floor PORT SOURCE SIZE TARGET
 *
 * A host both sends and receives. It sends ranges of SOURCE, which all hosts have from the start, to whoever connects to
 * PORT: a range is asked for by its offset and length, two 64-bit numbers, and goes out by sendfile. When it is ready it
 * prints {"ready": PORT}, then takes one line of JSON, {"sources": ["10.1.0.1", ...]}: the order. It divides SIZE evenly
 * among these, fetches one range from each of them at once, hashes it with XXH3-128 while it is in the processor's cache
 * and writes it to TARGET, whose room is reserved. At the end it prints {"live_at": TIME, "digests": [one a range]},
 * TIME by the system's clock, and goes on sending until its standard input ends.
 *
 * Sockets block, and each has a thread: recv takes what is there. Nothing is decided, announced or verified. Threads stay
 * when they are done, so that the kernel can still be asked what each of them took.
 */
#define _GNU_SOURCE
#define XXH_INLINE_ALL
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "xxhash.h"

enum { SLICE_BYTES = 256 * 1024, SEND_BYTES = 4 * 1024 * 1024, SOURCES_MAX = 64, LINE_BYTES = 4096 };

struct range {
    uint64_t offset, length;
};

struct part {
    struct sockaddr_in source;
    struct range range;
    XXH128_hash_t digest;
};

static int source_file, target_file;
static sem_t fetched;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void start(void *(*run)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument) || pthread_detach(thread)) die("pthread_create");
}

static void stay(void) {
    for (;;) pause();
}

static void *send_range(void *argument) {
    int sock = (int)(intptr_t)argument;
    struct range wanted;
    pthread_setname_np(pthread_self(), "floor-send");
    if (recv(sock, &wanted, sizeof wanted, MSG_WAITALL) == sizeof wanted) {
        off_t at = (off_t)wanted.offset, end = at + (off_t)wanted.length;
        while (at < end) {
            size_t left = (size_t)(end - at);
            if (sendfile(sock, source_file, &at, left < SEND_BYTES ? left : SEND_BYTES) <= 0) break;
        }
    }
    close(sock);
    stay();
    return NULL;
}

static void *serve(void *argument) {
    int listener = (int)(intptr_t)argument;
    pthread_setname_np(pthread_self(), "floor-send");
    for (;;) {
        int sock = accept(listener, NULL, NULL);
        if (sock < 0) die("accept");
        start(send_range, (void *)(intptr_t)sock);
    }
    return NULL;
}

static void *fetch_range(void *argument) {
    struct part *part = argument;
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    void *buffer = aligned_alloc(4096, SLICE_BYTES);
    XXH3_state_t *state = XXH3_createState();
    pthread_setname_np(pthread_self(), "floor-recv");
    if (!buffer || !state) die("memory");
    if (connect(sock, (struct sockaddr *)&part->source, sizeof part->source)) die("connect");
    if (send(sock, &part->range, sizeof part->range, 0) != sizeof part->range) die("send");
    XXH3_128bits_reset(state);
    for (uint64_t done = 0; done < part->range.length;) {
        ssize_t got = recv(sock, buffer, SLICE_BYTES, 0);
        if (got <= 0) die("recv");
        XXH3_128bits_update(state, buffer, (size_t)got);
        if (pwrite(target_file, buffer, (size_t)got, (off_t)(part->range.offset + done)) != got) die("pwrite");
        done += (uint64_t)got;
    }
    part->digest = XXH3_128bits_digest(state);
    close(sock);
    sem_post(&fetched);
    stay();
    return NULL;
}

static int read_sources(char *line, int port, struct part *parts) {
    int count = 0;
    strtok(line, "{}[]\",: \n");
    for (char *word; count < SOURCES_MAX && (word = strtok(NULL, "{}[]\",: \n")); count++) {
        struct sockaddr_in source = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        if (!inet_aton(word, &source.sin_addr)) die(word);
        parts[count].source = source;
    }
    return count;
}

static void fetch(char *line, int port, uint64_t size) {
    static struct part parts[SOURCES_MAX];
    struct timespec now;
    int count = read_sources(line, port, parts);
    for (int number = 0; number < count; number++) {
        uint64_t first = size * (uint64_t)number / (uint64_t)count, end = size * (uint64_t)(number + 1) / (uint64_t)count;
        parts[number].range = (struct range){first, end - first};
        start(fetch_range, &parts[number]);
    }
    for (int number = 0; number < count; number++) sem_wait(&fetched);
    clock_gettime(CLOCK_REALTIME, &now);
    printf("{\"live_at\": %lld.%09ld, \"digests\": [", (long long)now.tv_sec, now.tv_nsec);
    for (int number = 0; number < count; number++)
        printf("%s\"%016llx%016llx\"", number ? ", " : "", (unsigned long long)parts[number].digest.high64,
               (unsigned long long)parts[number].digest.low64);
    printf("]}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    char line[LINE_BYTES];
    if (argc != 5) {
        fputs("usage: floor PORT SOURCE SIZE TARGET\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    sem_init(&fetched, 0, 0);
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    source_file = open(argv[2], O_RDONLY);
    target_file = open(argv[4], O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (source_file < 0 || target_file < 0) die("open");
    if (posix_fallocate(target_file, 0, atoll(argv[3]))) die("fallocate");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, SOURCES_MAX)) die("listen");
    start(serve, (void *)(intptr_t)listener);
    printf("{\"ready\": %s}\n", argv[1]);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) fetch(line, atoi(argv[1]), (uint64_t)atoll(argv[3]));
    return 0;
}
