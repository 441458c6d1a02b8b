/* Echo on libuv, as its users write it: `uv_try_write` from the read callback, `uv_write` for what the
 * kernel did not take. While something is queued the connection does not read; so it never holds more than
 * one buffer. */

#include "serve_libuv.h"

static void closed(uv_handle_t *connection) {
    free(connection);
}

static void received(uv_stream_t *connection, ssize_t count, const uv_buf_t *buffer);

static void written(uv_write_t *request, int status) {
    uv_stream_t *connection = request->handle;
    free(request);
    if (status < 0 || uv_read_start(connection, lend_buffer, received) < 0) {
        uv_close((uv_handle_t *)connection, closed);
    }
}

static void received(uv_stream_t *connection, ssize_t count, const uv_buf_t *buffer) {
    if (count == 0) {
        /* Nothing to read after all. */
        return;
    }
    if (count < 0) {
        uv_close((uv_handle_t *)connection, closed);
        return;
    }
    uv_buf_t bytes = uv_buf_init(buffer->base, (unsigned)count);
    int taken = uv_try_write(connection, &bytes, 1);
    if (taken == UV_EAGAIN) {
        taken = 0;
    }
    if (taken == count) {
        return;
    }
    if (taken < 0 || queue(connection, buffer->base + taken, (size_t)(count - taken), written) < 0) {
        uv_close((uv_handle_t *)connection, closed);
        return;
    }
    uv_read_stop(connection);
}

static void connected(uv_stream_t *listener, int status) {
    if (status < 0) {
        /* A connection that was lost before it was accepted. */
        return;
    }
    uv_tcp_t *connection = allocate(sizeof *connection);
    check(uv_tcp_init(listener->loop, connection), "make a connection");
    uv_stream_t *stream = (uv_stream_t *)connection;
    if (uv_accept(listener, stream) < 0 || uv_read_start(stream, lend_buffer, received) < 0) {
        uv_close((uv_handle_t *)connection, closed);
    }
}

int main(int count, char **arguments) {
    return serve(count, arguments, connected);
}
