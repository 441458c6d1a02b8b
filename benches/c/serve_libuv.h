/* What both libuv peers share, as ../src/serve.rs is for those in Rust: the command line (ADDR:PORT, IPv4
 * only), a listener with the options that all peers have, and the line that says where it listens. */

#ifndef SERVE_LIBUV_H
#define SERVE_LIBUV_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* The sizes of ../src/serve.rs. */
enum { BUFFER = 64 * 1024, BACKLOG = 4096 };

static void check(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "cannot %s: %s\n", what, uv_strerror(result));
        exit(EXIT_FAILURE);
    }
}

static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL) {
        check(UV_ENOMEM, "allocate memory");
    }
    return memory;
}

/* One buffer is enough for all connections: what was read is used, or copied, before the next read. */
static void lend_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    static char bytes[BUFFER];
    (void)handle, (void)suggested;
    *buffer = uv_buf_init(bytes, sizeof bytes);
}

/* A write that the kernel did not take at once, with a copy of its bytes. */
struct queued {
    uv_write_t request;
    char bytes[];
};

/* Queues a copy of `size` bytes; `written` is to free `request`, which is where the whole of it begins. */
static int queue(uv_stream_t *stream, const char *bytes, size_t size, uv_write_cb written) {
    struct queued *queued = allocate(sizeof *queued + size);
    memcpy(queued->bytes, bytes, size);
    uv_buf_t buffer = uv_buf_init(queued->bytes, (unsigned)size);
    int result = uv_write(&queued->request, stream, &buffer, 1, written);
    if (result < 0) {
        free(queued);
    }
    return result;
}

/* `main` of a peer: listens, says so, and runs the loop until a signal ends the process. */
static int serve(int count, char **arguments, uv_connection_cb connected) {
    char host[64];
    unsigned port;
    if (count != 2 || sscanf(arguments[1], "%63[0-9.]:%u", host, &port) != 2 || port > 65535) {
        fprintf(stderr, "usage: ADDR:PORT\n");
        return EXIT_FAILURE;
    }
    struct sockaddr_in address;
    check(uv_ip4_addr(host, (int)port, &address), "read the address");
    /* libuv writes without MSG_NOSIGNAL. */
    signal(SIGPIPE, SIG_IGN);

    uv_tcp_t listener;
    check(uv_tcp_init(uv_default_loop(), &listener), "make a listener");
    check(uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0), "bind");
    /* Accepted sockets inherit it on Linux; so no peer has to set it on each. */
    check(uv_tcp_nodelay(&listener, 1), "set TCP_NODELAY");
    check(uv_listen((uv_stream_t *)&listener, BACKLOG, connected), "listen");

    int size = sizeof address;
    check(uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &size), "ask for the address");
    check(uv_ip4_name(&address, host, sizeof host), "write the address");
    printf("listening on %s:%u\n", host, (unsigned)ntohs(address.sin_port));
    fflush(stdout);
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

#endif
