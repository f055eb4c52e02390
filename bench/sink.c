/*
 * A fast checking MQTT 5 peer for benchmarks on loopback.
 *
 * It owns one connection at a time and judges what the client does: order (a 64-bit counter in the first eight payload bytes), packet
 * identifiers free, Receive Maximum kept, acknowledgements in order, nothing missing. It must never be the bottleneck, so it checks what
 * a benchmark can get wrong and no more; the strict parser of the tests looks at every byte. Invariant: the first broken rule ends the run
 * and is named in the report, so that a client that cheats is never timed.
 *
 * Arguments are name=value. It prints its port on the first line and one JSON object on the last.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CASE_PUBLISH, CASE_RECEIVE, CASE_ECHO };
enum { FREE = 0, PUBLISHED = 1, RELEASED = 2 };
#define READ_BYTES (256 * 1024)
#define BURST_BYTES (256 * 1024)
#define IDENTIFIERS 65536

static int what = CASE_PUBLISH, qos_sent = 0, topics_wanted = 1, topics_used = 0, connections = 1;
static long count = 1000;
static size_t payload_bytes = 16;
static unsigned receive_maximum = 0, topic_alias_maximum = 0, window_max = 0;
static double timeout_s = 60;

static int sock = -1;
static char error_text[256];
static int failed = 0;

/* What the report says. */
static long publishes, acknowledged, reads, inflight_peak;
static uint64_t bytes_in, bytes_out;
static double first_at, last_at;

/* One connection. */
static uint8_t *in;
static size_t in_size, in_len;
static uint8_t *out;
static size_t out_size, out_len, out_at;
static uint64_t out_position;                    /* stream position of out[out_at] */
static uint8_t state_in[IDENTIFIERS];            /* the client's publishes */
static uint8_t state_out[IDENTIFIERS];           /* ours */
static struct { uint64_t position; uint16_t identifier; } releases[IDENTIFIERS * 2];
static unsigned release_head, release_tail;      /* identifiers that become free once their last ack is in the socket */
static uint16_t expected[IDENTIFIERS];           /* our publishes whose PUBACK or PUBREC is still due, in the order sent */
static unsigned expected_head, expected_tail;
static long inflight_in, inflight_out, sent, next_counter;
static unsigned client_window;
static uint16_t next_identifier;
static int connected, sending, finished, gone;
static uint8_t *topics[IDENTIFIERS];
static uint16_t topic_bytes[IDENTIFIERS];
static int topic_count, topic_next;
static uint8_t alias_known[IDENTIFIERS];
static uint8_t first_topic[65536];
static int first_topic_bytes = -1;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *format, ...) {
    va_list arguments;
    if (failed) return;
    failed = 1;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
}

static uint8_t *reserve(size_t bytes) {
    if (out_at && out_at == out_len) out_at = out_len = 0;
    if (out_len + bytes > out_size) {
        memmove(out, out + out_at, out_len - out_at);
        out_len -= out_at;
        out_at = 0;
        while (out_len + bytes > out_size) out_size *= 2;
        out = realloc(out, out_size);
        if (!out) abort();
    }
    return out + out_len;
}

static void acknowledge(uint8_t first_byte, uint16_t identifier) {
    uint8_t *p = reserve(4);
    p[0] = first_byte;
    p[1] = 2;
    p[2] = (uint8_t)(identifier >> 8);
    p[3] = (uint8_t)identifier;
    out_len += 4;
}

static void release_later(uint16_t identifier) {
    releases[release_tail].position = out_position + (out_len - out_at);
    releases[release_tail].identifier = identifier;
    release_tail = (release_tail + 1) % (IDENTIFIERS * 2);
}

static size_t put_varint(uint8_t *p, size_t value) {
    size_t n = 0;
    do {
        uint8_t byte = value & 127;
        value >>= 7;
        p[n++] = value ? byte | 128 : byte;
    } while (value);
    return n;
}

/* Read a variable byte integer; the bytes read, 0 if it is incomplete, -1 if it is too long. */
static int get_varint(const uint8_t *p, size_t available, size_t *value) {
    size_t result = 0;
    for (int i = 0; i < 4; i++) {
        if ((size_t)i >= available) return 0;
        result |= (size_t)(p[i] & 127) << (7 * i);
        if (!(p[i] & 128)) {
            *value = result;
            return i + 1;
        }
    }
    return -1;
}

static void put_publish(int qos, const uint8_t *topic, uint16_t topic_length, const uint8_t *payload, size_t length, long counter) {
    size_t remaining = 2 + topic_length + (qos ? 2 : 0) + 1 + length;
    uint8_t *p = reserve(5 + remaining), *start = p;
    *p++ = (uint8_t)(0x30 | qos << 1);
    p += put_varint(p, remaining);
    *p++ = (uint8_t)(topic_length >> 8);
    *p++ = (uint8_t)topic_length;
    memcpy(p, topic, topic_length);
    p += topic_length;
    if (qos) {
        do {
            if (++next_identifier == 0) next_identifier = 1;
        } while (state_out[next_identifier] != FREE);
        state_out[next_identifier] = PUBLISHED;
        expected[expected_tail] = next_identifier;
        expected_tail = (expected_tail + 1) % IDENTIFIERS;
        if (++inflight_out > inflight_peak) inflight_peak = inflight_out;
        *p++ = (uint8_t)(next_identifier >> 8);
        *p++ = (uint8_t)next_identifier;
    }
    *p++ = 0;
    if (payload) {
        memcpy(p, payload, length);
    } else {
        size_t n = length < 8 ? length : 8;
        for (size_t i = 0; i < n; i++) p[i] = (uint8_t)((uint64_t)counter >> (8 * (7 - i)));
        memset(p + n, 'x', length - n);
    }
    out_len += (size_t)(p - start) + length;
}

/* Fill the send buffer with as many publishes as the client's Receive Maximum allows. */
static void produce(void) {
    if (!sending) return;
    if (sent == 0 && !first_at) first_at = now();
    while (sent < count && out_len - out_at < BURST_BYTES && (!qos_sent || inflight_out < (long)client_window)) {
        put_publish(qos_sent, topics[topic_next], topic_bytes[topic_next], NULL, payload_bytes, sent);
        if (++topic_next == (topics_used ? topics_used : topic_count)) topic_next = 0;
        sent++;
    }
    if (sent == count && inflight_out == 0 && !finished) {
        /* The end mark: everything before it is acknowledged. */
        finished = 1;
        last_at = now();
        put_publish(0, topics[0], topic_bytes[0], NULL, payload_bytes, count);
    }
}

static void receive_connect(const uint8_t *p, size_t length) {
    size_t properties, at = 10, end;
    int n;
    if (connected) { fail("a second CONNECT"); return; }
    if (length < 13 || memcmp(p, "\0\4MQTT\5", 7)) { fail("not an MQTT 5 CONNECT"); return; }
    n = get_varint(p + at, length - at, &properties);
    if (n <= 0 || at + (size_t)n + properties > length) { fail("CONNECT: bad property length"); return; }
    at += (size_t)n;
    end = at + properties;
    client_window = 65535;
    while (at < end) {
        uint8_t id = p[at++];
        size_t string;
        switch (id) {
        case 0x11: case 0x27: at += 4; break;
        case 0x21:
            if (at + 2 > end) { fail("CONNECT: short property"); return; }
            client_window = (unsigned)(p[at] << 8 | p[at + 1]);
            at += 2;
            break;
        case 0x22: at += 2; break;
        case 0x17: case 0x19: at += 1; break;
        case 0x15: case 0x16: case 0x26:
            for (int i = 0; i < (id == 0x26 ? 2 : 1); i++) {
                if (at + 2 > end) { fail("CONNECT: short property"); return; }
                string = (size_t)(p[at] << 8 | p[at + 1]);
                at += 2 + string;
            }
            break;
        default: fail("CONNECT: unknown property 0x%02x", id); return;
        }
    }
    if (at != end || client_window == 0) { fail("CONNECT: bad properties"); return; }
    if (window_max && window_max < client_window) client_window = window_max;
    connected = 1;
    uint8_t *answer = reserve(16), body[8];
    size_t b = 0;
    if (receive_maximum) {
        body[b++] = 0x21; body[b++] = (uint8_t)(receive_maximum >> 8); body[b++] = (uint8_t)receive_maximum;
    }
    if (topic_alias_maximum) {
        body[b++] = 0x22; body[b++] = (uint8_t)(topic_alias_maximum >> 8); body[b++] = (uint8_t)topic_alias_maximum;
    }
    answer[0] = 0x20; answer[1] = (uint8_t)(3 + b); answer[2] = 0; answer[3] = 0; answer[4] = (uint8_t)b;
    memcpy(answer + 5, body, b);
    out_len += 5 + b;
}

static void receive_publish(uint8_t first_byte, const uint8_t *p, size_t length) {
    int qos = first_byte >> 1 & 3, n;
    size_t topic_length, at, properties, end;
    uint16_t identifier = 0;
    unsigned alias = 0;
    if (!first_at) first_at = now();
    if (qos == 3 || (first_byte & 8)) { fail("PUBLISH %ld: bad flags 0x%02x", publishes, first_byte); return; }
    if (length < 3) { fail("PUBLISH: too short"); return; }
    topic_length = (size_t)(p[0] << 8 | p[1]);
    at = 2 + topic_length;
    if (at + (qos ? 2 : 0) >= length) { fail("PUBLISH: too short"); return; }
    if (qos) {
        identifier = (uint16_t)(p[at] << 8 | p[at + 1]);
        at += 2;
        if (identifier == 0) { fail("PUBLISH %ld: packet identifier 0", publishes); return; }
        if (state_in[identifier] != FREE) { fail("PUBLISH %ld: packet identifier %u is in use", publishes, identifier); return; }
        state_in[identifier] = PUBLISHED;
        if (++inflight_in > inflight_peak) inflight_peak = inflight_in;
        if (inflight_in > (receive_maximum ? (long)receive_maximum : 65535)) {
            fail("PUBLISH %ld: Receive Maximum exceeded, %ld in flight", publishes, inflight_in);
            return;
        }
    }
    if (p[at] == 0) {
        at++;
    } else {
        n = get_varint(p + at, length - at, &properties);
        if (n <= 0 || at + (size_t)n + properties > length) { fail("PUBLISH: bad property length"); return; }
        at += (size_t)n;
        end = at + properties;
        if (properties >= 3 && p[at] == 0x02 && properties >= 5) at += 5;
        if (end - at >= 3 && p[at] == 0x23) {
            alias = (unsigned)(p[at + 1] << 8 | p[at + 2]);
            if (alias == 0 || alias > topic_alias_maximum) { fail("PUBLISH: Topic Alias %u", alias); return; }
        }
        at = end;
    }
    if (topic_length == 0) {
        if (!alias || !alias_known[alias]) { fail("PUBLISH %ld: no topic", publishes); return; }
    } else {
        if (alias) alias_known[alias] = 1;
        if (first_topic_bytes < 0) {
            first_topic_bytes = (int)topic_length;
            memcpy(first_topic, p + 2, topic_length);
        } else if (topics_wanted == 1 && ((size_t)first_topic_bytes != topic_length || memcmp(first_topic, p + 2, topic_length))) {
            fail("PUBLISH %ld: another topic", publishes);
            return;
        }
    }
    if (length - at != payload_bytes) { fail("PUBLISH %ld: payload of %zu bytes, not %zu", publishes, length - at, payload_bytes); return; }
    if (payload_bytes >= 8) {
        uint64_t counter = 0;
        for (int i = 0; i < 8; i++) counter = counter << 8 | p[at + (size_t)i];
        if (counter != (uint64_t)next_counter) {
            fail("PUBLISH out of order: %llu came, %ld is next", (unsigned long long)counter, next_counter);
            return;
        }
    }
    next_counter++;
    publishes++;
    if (qos == 0) {
        acknowledged++;
    } else if (qos == 1) {
        acknowledge(0x40, identifier);
        release_later(identifier);
    } else {
        acknowledge(0x50, identifier);
    }
    if (what == CASE_ECHO) {
        const uint8_t *topic = topic_length ? p + 2 : first_topic;
        put_publish(qos < qos_sent ? qos : qos_sent, topic, (uint16_t)(topic_length ? topic_length : (size_t)first_topic_bytes), p + at, length - at, 0);
    }
    if (publishes == count && qos < 2) last_at = now();
}

static void receive_subscribe(const uint8_t *p, size_t length, int unsubscribe) {
    size_t properties, at = 2, codes = 0;
    uint8_t granted[65536];
    int n;
    if (length < 3) { fail("SUBSCRIBE: too short"); return; }
    n = get_varint(p + at, length - at, &properties);
    if (n <= 0) { fail("SUBSCRIBE: bad property length"); return; }
    at += (size_t)n + properties;
    while (at + 2 < length) {
        size_t filter = (size_t)(p[at] << 8 | p[at + 1]);
        if (at + 2 + filter + (unsubscribe ? 0 : 1) > length) { fail("SUBSCRIBE: too short"); return; }
        if (!unsubscribe) {
            if (topic_count < topics_wanted) {
                topics[topic_count] = malloc(filter);
                memcpy(topics[topic_count], p + at + 2, filter);
                topic_bytes[topic_count++] = (uint16_t)filter;
            }
            granted[codes++] = p[at + 2 + filter] & 3;
            at++;
        } else {
            granted[codes++] = 0;
        }
        at += 2 + filter;
    }
    if (at != length || !codes) { fail("SUBSCRIBE: bad filters"); return; }
    uint8_t *answer = reserve(16 + codes), *q = answer;
    *q++ = unsubscribe ? 0xB0 : 0x90;
    q += put_varint(q, 3 + codes);
    *q++ = p[0];
    *q++ = p[1];
    *q++ = 0;
    memcpy(q, granted, codes);
    out_len += (size_t)(q - answer) + codes;
    if (what == CASE_RECEIVE && topic_count >= topics_wanted) sending = 1;
}

static void receive_ack(uint8_t first_byte, const uint8_t *p, size_t length) {
    uint16_t identifier;
    if (length < 2) { fail("packet 0x%02x: too short", first_byte); return; }
    identifier = (uint16_t)(p[0] << 8 | p[1]);
    if (length > 2 && p[2] >= 0x80) { fail("packet 0x%02x for %u: reason code 0x%02x", first_byte, identifier, p[2]); return; }
    switch (first_byte) {
    case 0x40:
    case 0x50:
        if (expected_head == expected_tail || expected[expected_head] != identifier) {
            fail("packet 0x%02x out of order: %u came, %u is next", first_byte, identifier,
                 expected_head == expected_tail ? 0 : expected[expected_head]);
            return;
        }
        expected_head = (expected_head + 1) % IDENTIFIERS;
        if ((first_byte == 0x40) != (qos_sent == 1)) { fail("packet 0x%02x answers QoS %d", first_byte, qos_sent); return; }
        if (first_byte == 0x40) {
            state_out[identifier] = FREE;
            inflight_out--;
            acknowledged++;
        } else {
            state_out[identifier] = RELEASED;
            acknowledge(0x62, identifier);
        }
        break;
    case 0x62:
        if (state_in[identifier] != PUBLISHED) { fail("PUBREL for %u, which is not published", identifier); return; }
        state_in[identifier] = RELEASED;
        acknowledge(0x70, identifier);
        release_later(identifier);
        if (publishes == count) last_at = now();
        break;
    case 0x70:
        if (state_out[identifier] != RELEASED) { fail("PUBCOMP for %u, which is not released", identifier); return; }
        state_out[identifier] = FREE;
        inflight_out--;
        acknowledged++;
        break;
    }
}

static void receive_packet(uint8_t first_byte, const uint8_t *p, size_t length) {
    if (gone) { fail("packet 0x%02x after DISCONNECT", first_byte); return; }
    if (!connected && first_byte != 0x10) { fail("packet 0x%02x before CONNECT", first_byte); return; }
    switch (first_byte >> 4) {
    case 1: receive_connect(p, length); break;
    case 3: receive_publish(first_byte, p, length); break;
    case 4: case 5: case 6: case 7: receive_ack(first_byte, p, length); break;
    case 8: receive_subscribe(p, length, 0); break;
    case 10: receive_subscribe(p, length, 1); break;
    case 12: memcpy(reserve(2), "\xd0\0", 2); out_len += 2; break;
    case 14:
        gone = 1;
        if (length && p[0] >= 0x80) fail("DISCONNECT with reason code 0x%02x", p[0]);
        break;
    default: fail("unexpected packet 0x%02x", first_byte);
    }
}

/* Handle every whole packet that is in the buffer. */
static void receive_all(void) {
    size_t at = 0, remaining = 0;
    while (!failed && in_len - at >= 2) {
        const uint8_t *p = in + at;
        int n = get_varint(p + 1, in_len - at - 1, &remaining);
        if (n < 0) { fail("bad Remaining Length"); return; }
        if (n == 0) break;
        size_t whole = 1 + (size_t)n + remaining;
        if (in_len - at < whole) {
            if (whole + READ_BYTES > in_size) {
                in_size = whole + READ_BYTES;
                in = realloc(in, in_size);
                if (!in) abort();
            }
            break;
        }
        receive_packet(p[0], p + 1 + n, remaining);
        at += whole;
    }
    memmove(in, in + at, in_len - at);
    in_len -= at;
}

static void flush(void) {
    while (out_at < out_len) {
        ssize_t n = send(sock, out + out_at, out_len - out_at, 0);
        if (n < 0) {
            if (errno == EAGAIN || errno == EINTR) break;
            if (!gone) fail("send: %s", strerror(errno));
            out_at = out_len;
            return;
        }
        out_at += (size_t)n;
        out_position += (uint64_t)n;
        bytes_out += (uint64_t)n;
    }
    /* An identifier is free again once its last acknowledgement is in the socket. */
    while (release_head != release_tail && releases[release_head].position <= out_position) {
        state_in[releases[release_head].identifier] = FREE;
        inflight_in--;
        acknowledged++;
        release_head = (release_head + 1) % (IDENTIFIERS * 2);
    }
}

static void serve(double deadline) {
    in_len = out_len = out_at = 0;
    out_position = 0;
    memset(state_in, 0, sizeof state_in);
    memset(state_out, 0, sizeof state_out);
    memset(alias_known, 0, sizeof alias_known);
    release_head = release_tail = expected_head = expected_tail = 0;
    inflight_in = inflight_out = sent = next_counter = 0;
    next_identifier = 0;
    connected = sending = finished = gone = 0;
    topic_next = 0;
    for (int i = 0; i < topic_count; i++) free(topics[i]);
    topic_count = 0;
    while (!failed) {
        struct pollfd wait = {sock, POLLIN, 0};
        if (out_at < out_len) wait.events |= POLLOUT;
        if (poll(&wait, 1, 1000) < 0 && errno != EINTR) { fail("poll: %s", strerror(errno)); break; }
        if (now() > deadline) {
            fail("timed out: %ld of %ld messages, %ld acknowledged, %ld sent", publishes, count, acknowledged, sent);
            break;
        }
        if (wait.revents & (POLLIN | POLLHUP | POLLERR)) {
            /* Loopback lets one burst arrive in pieces: read until the socket is empty or the buffer full, so that acks leave in bursts. */
            int over = 0;
            while (in_len < in_size) {
                ssize_t n = recv(sock, in + in_len, in_size - in_len, 0);
                if (n == 0) { over = 1; break; }
                if (n < 0) {
                    if (errno != EAGAIN && errno != EINTR) { if (!gone) fail("recv: %s", strerror(errno)); over = 1; }
                    break;
                }
                reads++;
                bytes_in += (uint64_t)n;
                in_len += (size_t)n;
            }
            receive_all();
            if (over) {
                flush();
                if (!gone && !failed) fail("the client closed without DISCONNECT: %ld of %ld messages", publishes, count);
                return;
            }
        }
        do {
            produce();
            flush();
        } while (sending && out_at == out_len && sent < count && (!qos_sent || inflight_out < (long)client_window));
    }
}

static void argument(const char *text) {
    const char *value = strchr(text, '=');
    size_t n = value ? (size_t)(value - text) : 0;
    if (!value) { fprintf(stderr, "not name=value: %s\n", text); exit(2); }
    value++;
#define IS(name) (n == strlen(name) && !strncmp(text, name, n))
    if (IS("case")) what = !strcmp(value, "receive") ? CASE_RECEIVE : !strcmp(value, "echo") ? CASE_ECHO : CASE_PUBLISH;
    else if (IS("count")) count = atol(value);
    else if (IS("size")) payload_bytes = (size_t)atol(value);
    else if (IS("qos")) qos_sent = atoi(value);
    else if (IS("receive_maximum")) receive_maximum = (unsigned)atoi(value);
    else if (IS("topic_alias_maximum")) topic_alias_maximum = (unsigned)atoi(value);
    else if (IS("window")) window_max = (unsigned)atoi(value);
    else if (IS("topics")) topics_wanted = atoi(value);
    else if (IS("used")) topics_used = atoi(value);
    else if (IS("connections")) connections = atoi(value);
    else if (IS("timeout")) timeout_s = atof(value);
    else { fprintf(stderr, "unknown argument: %s\n", text); exit(2); }
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {0};
    socklen_t address_bytes = sizeof address;
    struct rusage usage;
    double deadline;
    int one = 1, listener;
    for (int i = 1; i < argc; i++) argument(argv[i]);
    if (topics_wanted < 1 || topics_wanted >= IDENTIFIERS || topics_used < 0 || topics_used > topics_wanted) {
        fprintf(stderr, "topics: 1 to 65535, used: at most topics\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    in_size = READ_BYTES;
    in = malloc(in_size);
    out_size = 2 * BURST_BYTES;
    out = malloc(out_size);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)) { perror("listen"); return 2; }
    getsockname(listener, (struct sockaddr *)&address, &address_bytes);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    deadline = now() + timeout_s;
    for (int i = 0; i < connections && !failed; i++) {
        struct pollfd wait = {listener, POLLIN, 0};
        if (poll(&wait, 1, (int)((deadline - now()) * 1000)) <= 0) { fail("no connection came"); break; }
        sock = accept(listener, NULL, NULL);
        if (sock < 0) { fail("accept: %s", strerror(errno)); break; }
        fcntl(sock, F_SETFL, fcntl(sock, F_GETFL) | O_NONBLOCK);
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        serve(deadline);
        close(sock);
    }
    if (!failed && what != CASE_RECEIVE && publishes != count) fail("%ld of %ld messages came", publishes, count);
    if (!failed && what == CASE_RECEIVE && qos_sent && acknowledged != count) fail("%ld of %ld messages acknowledged", acknowledged, count);
    if (!failed && what == CASE_RECEIVE && !finished) fail("%ld of %ld messages sent", sent, count);
    if (!failed && inflight_in) fail("%ld messages were left unfinished", inflight_in);
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"ok\": %s, \"error\": \"", failed ? "false" : "true");
    for (const char *c = error_text; *c; c++) putchar(*c == '"' || *c == '\\' ? '\'' : *c);
    printf("\", \"publishes\": %ld, \"acknowledged\": %ld, \"sent\": %ld, \"in_flight_peak\": %ld, \"reads\": %ld, "
           "\"bytes_in\": %llu, \"bytes_out\": %llu, \"first_at\": %.6f, \"elapsed_s\": %.6f, \"cpu_s\": %.6f}\n",
           publishes, acknowledged, sent, inflight_peak, reads, (unsigned long long)bytes_in, (unsigned long long)bytes_out,
           first_at, last_at > first_at ? last_at - first_at : 0.0,
           (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 + (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6);
    return failed ? 1 : 0;
}
