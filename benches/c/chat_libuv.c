/* Chat on libuv: every line goes to every member, one `uv_try_write` each, and `uv_write` for what the kernel
 * did not take. A member that does not read is kept up to LIMIT bytes behind, then dropped. */

#include "serve_libuv.h"

/* Bytes that a member may be behind. */
enum { LIMIT = 1 << 20 };

struct member {
    /* First, so that a handle is also its member. */
    uv_tcp_t socket;
    /* Its place in `members`. */
    size_t place;
    /* The beginning of a line that has not ended yet. */
    char *partial;
    size_t partial_size;
};

/* All but those that are being closed. */
static struct member **members;
static size_t member_count, member_room;

static void closed(uv_handle_t *handle) {
    struct member *member = (struct member *)handle;
    free(member->partial);
    free(member);
}

/* Closes a member, once; the last one takes its place. */
static void drop(struct member *member) {
    if (uv_is_closing((uv_handle_t *)member)) {
        return;
    }
    struct member *last = members[--member_count];
    members[member->place] = last;
    last->place = member->place;
    uv_close((uv_handle_t *)member, closed);
}

static void written(uv_write_t *request, int status) {
    struct member *member = (struct member *)request->handle;
    free(request);
    if (status < 0) {
        drop(member);
    }
}

/* Negative if the member is to be dropped. */
static int send_lines(struct member *member, char *lines, size_t size) {
    uv_stream_t *stream = (uv_stream_t *)member;
    uv_buf_t buffer = uv_buf_init(lines, (unsigned)size);
    /* UV_EAGAIN also while something is queued: the order is kept. */
    int taken = uv_try_write(stream, &buffer, 1);
    if (taken == UV_EAGAIN) {
        taken = 0;
    }
    if (taken < 0 || (size_t)taken == size) {
        return taken;
    }
    size_t rest = size - (size_t)taken;
    if (uv_stream_get_write_queue_size(stream) + rest > LIMIT) {
        return UV_ENOBUFS;
    }
    return queue(stream, lines + taken, rest, written);
}

static void received(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
    struct member *member = (struct member *)stream;
    if (count == 0) {
        /* Nothing to read after all. */
        return;
    }
    if (count < 0) {
        drop(member);
        return;
    }
    /* What ../src/chat.rs does: all complete lines in one piece, the rest is kept. */
    size_t size = member->partial_size + (size_t)count;
    char *text = allocate(size);
    if (member->partial_size > 0) {
        memcpy(text, member->partial, member->partial_size);
    }
    memcpy(text + member->partial_size, buffer->base, (size_t)count);
    free(member->partial);
    member->partial = NULL;

    size_t end = size;
    while (end > 0 && text[end - 1] != '\n') {
        end--;
    }
    member->partial_size = size - end;
    if (end < size) {
        member->partial = allocate(size - end);
        memcpy(member->partial, text + end, size - end);
    }
    if (end > 0) {
        for (size_t place = 0; place < member_count;) {
            if (send_lines(members[place], text, end) < 0) {
                /* Another member is at this place now. */
                drop(members[place]);
            } else {
                place++;
            }
        }
    }
    free(text);
}

static void connected(uv_stream_t *listener, int status) {
    if (status < 0) {
        /* A connection that was lost before it was accepted. */
        return;
    }
    if (member_count == member_room) {
        member_room = member_room == 0 ? 64 : 2 * member_room;
        members = realloc(members, member_room * sizeof *members);
        if (members == NULL) {
            check(UV_ENOMEM, "allocate memory");
        }
    }
    struct member *member = allocate(sizeof *member);
    member->place = member_count;
    member->partial = NULL;
    member->partial_size = 0;
    check(uv_tcp_init(listener->loop, &member->socket), "make a connection");
    members[member_count++] = member;
    uv_stream_t *stream = (uv_stream_t *)member;
    if (uv_accept(listener, stream) < 0 || uv_read_start(stream, lend_buffer, received) < 0) {
        drop(member);
    }
}

int main(int count, char **arguments) {
    return serve(count, arguments, connected);
}
