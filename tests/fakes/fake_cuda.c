/* A FAKE of libcuda.so.1: a GPU whose memory is the process's own, whose streams are queues.

   Written from the documentation of the CUDA driver API, to be stricter than a real GPU is:
   - Work is queued, and done only when something waits for it, in the most unpleasant order that
     events allow (ORDER). A forgotten event gives wrong bytes.
   - Memory starts with rubbish. Copies from or to addresses that aren't the GPU's are refused; work
     that finds its memory gone is an illegal access (700), after which all calls fail.
   - Pinned memory is seen at another address by the "GPU", where the kernel of Linux allows it.
   - Pinned memory that isn't mapped any more can't be unpinned.
   - Pinned memory is read and written when the work is done, other memory as documented: copies in
     read it at once, copies out wait.

   Options: FAKE_CUDA_<NAME> of the environment, or lines NAME=VALUE of the file "options" beside
   this library: NAME, CAPABILITY, VERSION, INTEGRATED, INIT (what cuInit returns), LARGEST, FREE,
   TOTAL (bytes), ORDER (needed, early, random:SEED), FAULT (CALL:NTH=CODE|hang|crash, with commas;
   NTH 0: each time), HANGING (a file that is made when a call hangs), KERNELS (a library with the
   kernels in C), REPORT (a file for what is left when the process ends). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum code {
  OK, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE = 100, INVALID_DEVICE = 101,
  INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_STATE = 401,
  NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, TIMEOUT = 702, DESTROYED = 709,
  ALREADY_REGISTERED = 712, NOT_REGISTERED = 713, UNSUPPORTED = 900, INVALIDATED = 901,
  MERGE = 902, UNMATCHED = 903, UNJOINED = 904, ISOLATION = 905, CAPTURED_EVENT = 907,
  WRONG_THREAD = 908, UNKNOWN = 999,
};

static const struct { int code; const char *words; } WORDS[] = {
  {OK, "no error"}, {INVALID_VALUE, "invalid argument"}, {OUT_OF_MEMORY, "out of memory"},
  {NOT_INITIALIZED, "initialization error"}, {34, "CUDA driver is a stub library"},
  {46, "CUDA-capable device(s) is/are busy or unavailable"},
  {NO_DEVICE, "no CUDA-capable device is detected"}, {INVALID_DEVICE, "invalid device ordinal"},
  {INVALID_IMAGE, "device kernel image is invalid"}, {INVALID_CONTEXT, "invalid device context"},
  {209, "no kernel image is available for execution on the device"},
  {214, "uncorrectable ECC error encountered"}, {INVALID_HANDLE, "invalid resource handle"},
  {ILLEGAL_STATE, "the operation cannot be performed in the present state"},
  {NOT_FOUND, "named symbol not found"}, {NOT_READY, "device not ready"},
  {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
  {TIMEOUT, "the launch timed out and was terminated"}, {DESTROYED, "context is destroyed"},
  {710, "device-side assert triggered"}, {719, "unspecified launch failure"},
  {721, "tensor memory not completely freed"},
  {ALREADY_REGISTERED, "part or all of the requested memory range is already mapped"},
  {NOT_REGISTERED, "pointer does not correspond to a registered memory region"},
  {800, "operation not permitted"}, {801, "operation not supported"},
  {803, "system has unsupported display driver / cuda driver combination"},
  {UNSUPPORTED, "operation not permitted when stream is capturing"},
  {INVALIDATED, "operation failed due to a previous error during capture"},
  {MERGE, "operation would result in a merge of separate capture sequences"},
  {UNMATCHED, "capture was not ended in the same stream as it began"},
  {UNJOINED, "capturing stream has unjoined work"},
  {ISOLATION, "dependency created on uncaptured work in another stream"},
  {CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"},
  {WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread"},
  {UNKNOWN, "unknown error"},
};

/* The codes after which a process can't go on, by the comments in cuda.h. */
static const int DEADLY[] = {226, 700, 702, 714, 715, 716, 717, 718, 719, 721, 810, 911};

typedef uint64_t address;
typedef void (*callback)(void *argument);
typedef void (*kernel)(const unsigned *grid, const unsigned *block, void **arguments);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int retained, pushed, broken, illegal, is_initialized;
static __thread int depth;
static unsigned long submitted;
static double clock_ms;

/* ---- options ---- */

static char beside[65536];

static const char *option(const char *name, const char *fallback)
{
  static __thread char key[64], value[4][4096];
  static __thread int turn;
  snprintf(key, sizeof key, "FAKE_CUDA_%s", name);
  if (getenv(key)) return getenv(key);
  snprintf(key, sizeof key, "\n%s=", name);
  const char *found = strstr(beside, key);
  if (!found) return fallback;
  found += strlen(key);
  char *into = value[turn = (turn + 1) % 4];
  snprintf(into, sizeof value[0], "%.*s", (int)strcspn(found, "\n"), found);
  return into;
}

static unsigned long long number(const char *name, unsigned long long fallback)
{
  const char *text = option(name, NULL);
  return text ? strtoull(text, NULL, 0) : fallback;
}

/* ---- faults on demand, and how often each function was called ---- */

static struct call { char name[40]; long count; } calls[80];
static char faults[4096];

static struct call *called(const char *name)
{
  int at = 0;
  while (calls[at].name[0] && strcmp(calls[at].name, name)) at++;
  snprintf(calls[at].name, sizeof calls[at].name, "%s", name);
  return &calls[at];
}

static int is_deadly(int code)
{
  for (size_t at = 0; at < sizeof DEADLY / sizeof *DEADLY; at++)
    if (DEADLY[at] == code) return 1;
  return 0;
}

static void hang(void)
{
  const char *path = option("HANGING", NULL);
  FILE *file = path ? fopen(path, "w") : NULL;
  if (file) fclose(file);
  for (;;) pause();
}

/* Count a call; return what it is to fail with. */
static int fault_of(const char *name)
{
  pthread_mutex_lock(&lock);
  long count = ++called(name)->count;
  char verb[32] = "", text[sizeof faults], *rest = text, *one;
  snprintf(text, sizeof text, "%s", faults);
  while ((one = strsep(&rest, ","))) {
    char wanted[40], what[32];
    long nth;
    if (sscanf(one, "%39[^:]:%ld=%31s", wanted, &nth, what) == 3 && !strcmp(wanted, name)
        && (nth == 0 || nth == count))
      strcpy(verb, what);
  }
  int code = atoi(verb);
  if (is_deadly(code)) broken = code;
  pthread_mutex_unlock(&lock);
  if (!strcmp(verb, "hang")) hang();
  if (!strcmp(verb, "crash")) raise(SIGSEGV);
  return code;
}

#define ENTER(name) do { int fault = fault_of(name); if (fault) return fault; } while (0)
#define REFUSE_WITHOUT_CONTEXT() do { \
    if (broken) return broken; \
    if (!is_initialized) return NOT_INITIALIZED; \
    if (!depth) return INVALID_CONTEXT; \
    if (!retained) return DESTROYED; } while (0)
#define WITH_LOCK(body) do { pthread_mutex_lock(&lock); int code = body; \
    pthread_mutex_unlock(&lock); return code; } while (0)

/* ---- what can be given back ---- */

enum kind { MEMORY, MAPPING, STREAM, EVENT, GRAPH, EXEC, MODULE, FUNCTION, KINDS };
static const char *const KIND[] = {"allocation", "registered range", "stream", "event", "graph",
                                   "instantiated graph", "module", "function"};

struct thing { enum kind kind; int gone; struct thing *next; };
static struct thing *things;

static void *make(enum kind kind, size_t size)
{
  struct thing *made = calloc(1, size);
  made->kind = kind;
  made->next = things;
  return things = made;
}

static void *find(enum kind kind, const void *handle)
{
  for (struct thing *one = things; one; one = one->next)
    if (one == handle && one->kind == kind && !one->gone) return one;
  return NULL;
}

/* ---- memory ---- */

enum { SPARE = 256 };
#define PAGE ((size_t)sysconf(_SC_PAGESIZE))
static const char CANARY[] = "the GPU's memory ends here";

struct range { struct thing thing; char *device, *host, *base; size_t size; int is_mapped; };

static int holds(const char *start, size_t size, const char *at, size_t count)
{
  return at >= start && count <= size && (size_t)(at - start) <= size - count;
}

static int is_device(const void *at, size_t count)
{
  for (struct thing *one = things; one; one = one->next) {
    struct range *range = (struct range *)one;
    if ((one->kind == MEMORY || (one->kind == MAPPING && range->is_mapped)) && !one->gone
        && holds(range->device, range->size, at, count)) return 1;
  }
  return 0;
}

/* 1: pinned, 0: not, -1: partly. */
static int is_pinned(const char *at, size_t count)
{
  for (struct thing *one = things; one; one = one->next) {
    struct range *range = (struct range *)one;
    if (one->kind != MAPPING || one->gone) continue;
    if (holds(range->host, range->size, at, count)) return 1;
    if (at < range->host + range->size && range->host < at + count) return -1;
  }
  return 0;
}

static int is_there(const char *at, size_t count)
{
  char *start = (char *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1));
  size_t pages = (at + count - start + PAGE - 1) / PAGE;
  unsigned char *map = malloc(pages + 1);
  int code = mincore(start, pages * PAGE, map);
  free(map);
  return code == 0;
}

static size_t in_use(void)
{
  size_t sum = 0;
  for (struct thing *one = things; one; one = one->next)
    if (one->kind == MEMORY && !one->gone) sum += ((struct range *)one)->size;
  return sum;
}

static int allocate(address *made, size_t size)
{
  REFUSE_WITHOUT_CONTEXT();
  if (!size || !made) return INVALID_VALUE;
  if (size > number("LARGEST", 1ull << 40) || in_use() + size > number("FREE", 6ull << 30))
    return OUT_OF_MEMORY;
  struct range *range = make(MEMORY, sizeof *range);
  if (posix_memalign((void **)&range->base, PAGE, SPARE + size + sizeof CANARY))
    return OUT_OF_MEMORY;
  range->device = range->base + SPARE; /* aligned to 256 bytes and no more, as documented */
  range->size = size;
  memset(range->device, 0xA5, size);
  memcpy(range->device + size, CANARY, sizeof CANARY);
  *made = (address)range->device;
  return OK;
}

static int release(address at)
{
  REFUSE_WITHOUT_CONTEXT();
  for (struct thing *one = things; one; one = one->next) {
    struct range *range = (struct range *)one;
    if (one->kind != MEMORY || one->gone || (address)range->device != at) continue;
    one->gone = 1;
    int is_whole = !memcmp(range->device + range->size, CANARY, sizeof CANARY);
    free(range->base);
    if (!is_whole) { illegal++; return broken = ILLEGAL_ADDRESS; }
    return OK;
  }
  return INVALID_VALUE;
}

static int pin(char *host, size_t size, unsigned flags)
{
  REFUSE_WITHOUT_CONTEXT();
  if (!size || (uintptr_t)host % PAGE || size % PAGE || !is_there(host, size))
    return INVALID_VALUE;
  if (is_pinned(host, size)) return ALREADY_REGISTERED;
  struct range *range = make(MAPPING, sizeof *range);
  range->host = range->device = host;
  range->size = size;
  range->is_mapped = (flags & 2) != 0;
  /* A second mapping of the same pages; only shared ones can have it. */
  void *other = mremap(host, 0, size, MREMAP_MAYMOVE);
  if (other != MAP_FAILED) range->device = other;
  return OK;
}

static struct range *pinned_at(const char *host)
{
  for (struct thing *one = things; one; one = one->next)
    if (one->kind == MAPPING && !one->gone && ((struct range *)one)->host == host)
      return (struct range *)one;
  return NULL;
}

static int unpin(char *host)
{
  REFUSE_WITHOUT_CONTEXT();
  struct range *range = pinned_at(host);
  if (!range) return NOT_REGISTERED;
  if (!is_there(host, range->size)) return INVALID_VALUE; /* unmapped before it was unpinned */
  range->thing.gone = 1;
  if (range->device != range->host) munmap(range->device, range->size);
  return OK;
}

static int mapped(address *made, char *host)
{
  REFUSE_WITHOUT_CONTEXT();
  struct range *range = pinned_at(host);
  if (!range || !range->is_mapped) return INVALID_VALUE;
  *made = (address)range->device;
  return OK;
}

/* ---- work ---- */

struct stream;
/* One setting of an event: a place in a stream's queue. */
struct mark { struct stream *stream; int is_done; double at_ms; };

enum verb { COPY_IN, COPY_OUT, KERNEL, CALL_BACK, MARK, WAIT, LAUNCH };
enum { MOST_VALUES = 32 };

struct work {
  enum verb verb;
  unsigned long number; /* of its submission; in a graph its index */
  int is_running, is_needed;
  struct work *next;
  char *device, *host, *staged;
  size_t size;
  int was_pinned;
  callback callback;
  void *argument;
  kernel kernel;
  unsigned grid[3], block[3];
  uint64_t values[MOST_VALUES];
  struct mark *mark;
  struct capture *graph; /* LAUNCH: whose works */
  struct work **needs; /* in a graph */
  int need_count;
};

/* What is noted; works are kept until the process ends, since graphs share them. */
struct capture {
  struct stream *origin;
  int mode, is_open, is_spoilt, count;
  pthread_t thread;
  struct work **works;
};

struct stream {
  struct thing thing;
  struct work *first;
  struct capture *capture;
  struct work **tail; /* in a capture: what the next work needs */
  int tail_count;
};

struct event {
  struct thing thing;
  unsigned flags;
  struct mark *mark;
  struct capture *capture;
  struct work **tail;
  int tail_count;
};

struct graph { struct thing thing; struct capture *capture; };

static struct capture *capturing;

static void note(struct work ***list, int *count, struct work *one)
{
  for (int at = 0; at < *count; at++) if ((*list)[at] == one) return;
  *list = realloc(*list, sizeof **list * (*count + 1));
  (*list)[(*count)++] = one;
}

static void forget_capture(void)
{
  for (struct thing *one = things; one; one = one->next)
    if (one->kind == STREAM && ((struct stream *)one)->capture == capturing) {
      struct stream *stream = (struct stream *)one;
      stream->capture = NULL;
      stream->tail_count = 0;
    }
  capturing->is_open = 0;
  capturing = NULL;
}

/* Calls that a capture forbids: to all threads, or (mode 1) to the one that captures. */
static int refused_by_capture(void)
{
  if (!capturing || capturing->mode == 2) return OK;
  if (capturing->mode == 1 && !pthread_equal(capturing->thread, pthread_self())) return OK;
  capturing->is_spoilt = 1;
  return UNSUPPORTED;
}

/* Put work into a stream's queue, or note it down. */
static int submit(struct stream *stream, struct work *work)
{
  work->number = ++submitted;
  if (stream->capture) {
    struct capture *capture = stream->capture;
    if (capture->is_spoilt) return INVALIDATED;
    work->needs = stream->tail;
    work->need_count = stream->tail_count;
    work->number = capture->count;
    note(&capture->works, &capture->count, work);
    stream->tail = NULL;
    stream->tail_count = 0;
    note(&stream->tail, &stream->tail_count, work);
    return OK;
  }
  struct work **last = &stream->first;
  while (*last) last = &(*last)->next;
  *last = work;
  return OK;
}

static void do_graph(struct capture *graph);

/* Do one work; the lock is given up while it takes time. */
static void perform(struct work *work)
{
  char *host = work->staged ? work->staged : work->host;
  if (broken) return; /* the GPU does nothing more */
  if (work->verb == LAUNCH) { do_graph(work->graph); return; }
  if (work->verb == MARK) { work->mark->at_ms = clock_ms; return; }
  if (work->verb == WAIT) return;
  clock_ms += 0.5;
  if (work->verb <= COPY_OUT) {
    int is_gone = work->was_pinned && is_pinned(work->host, work->size) != 1;
    if (is_gone || !is_device(work->device, work->size)) {
      illegal++;
      broken = ILLEGAL_ADDRESS;
    } else if (work->verb == COPY_IN) memmove(work->device, host, work->size);
    else memmove(host, work->device, work->size);
    return;
  }
  pthread_mutex_unlock(&lock);
  if (work->verb == CALL_BACK) work->callback(work->argument);
  else {
    void *arguments[MOST_VALUES];
    for (int at = 0; at < MOST_VALUES; at++) arguments[at] = &work->values[at];
    work->kernel(work->grid, work->block, arguments);
  }
  pthread_mutex_lock(&lock);
}

static unsigned long chance(void)
{
  static unsigned long state;
  const char *order = option("ORDER", "needed");
  if (!state) state = 88172645463325252ull + strtoull(strchr(order, ':') ? strchr(order, ':') + 1
                                                                        : "1", NULL, 10);
  state ^= state << 13; state ^= state >> 7; state ^= state << 17;
  return state;
}

static void do_graph(struct capture *graph)
{
  char *is_done = calloc(graph->count + 1, 1);
  for (int left = graph->count; left; left--) {
    int chosen = -1;
    for (int at = graph->count - 1; at >= 0; at--) {
      int is_ready = !is_done[at];
      for (int need = 0; is_ready && need < graph->works[at]->need_count; need++)
        is_ready = is_done[graph->works[at]->needs[need]->number];
      if (is_ready && (chosen < 0 || (*option("ORDER", "") == 'r' && chance() % 2))) chosen = at;
    }
    perform(graph->works[chosen]);
    is_done[chosen] = 1;
  }
  free(is_done);
}

static void need(struct mark *mark)
{
  if (mark->is_done) return;
  for (struct work *work = mark->stream->first; work; work = work->next) {
    int is_known = work->is_needed;
    work->is_needed = 1;
    if (work->verb == WAIT && !is_known) need(work->mark);
    if (work->verb == MARK && work->mark == mark) return;
  }
}

/* The stream whose first work comes next on the way to a mark, NULL: none can. Three unpleasant
   orders: "needed" leaves all undone that nothing waits for, "early" does that first. */
static struct stream *choose(const char *order)
{
  struct stream *best = NULL;
  unsigned long most = 0;
  for (struct thing *one = things; one; one = one->next) {
    struct work *work = one->kind == STREAM ? ((struct stream *)one)->first : NULL;
    if (!work || work->is_running || (work->verb == WAIT && !work->mark->is_done)) continue;
    if (*order == 'n' && !work->is_needed) continue;
    unsigned long worth = work->number;
    if (*order == 'e' && !work->is_needed) worth += 1ul << 40;
    if (*order == 'r') worth = chance() >> 1;
    if (worth >= most) { most = worth; best = (struct stream *)one; }
  }
  return best;
}

static int is_anything_running(void)
{
  for (struct thing *one = things; one; one = one->next)
    if (one->kind == STREAM && ((struct stream *)one)->first
        && ((struct stream *)one)->first->is_running) return 1;
  return 0;
}

static int run_until(struct mark *mark)
{
  while (!mark->is_done && !broken) {
    need(mark);
    struct stream *stream = choose(option("ORDER", "needed"));
    if (!stream) {
      if (!is_anything_running()) return UNKNOWN; /* a real GPU would wait for ever */
      pthread_cond_wait(&changed, &lock);
      continue;
    }
    struct work *work = stream->first;
    work->is_running = 1;
    perform(work);
    if (work->verb == MARK) work->mark->is_done = 1;
    stream->first = work->next;
    free(work->staged);
    free(work);
    pthread_cond_broadcast(&changed);
  }
  return broken;
}

static struct mark *put_mark(struct stream *stream)
{
  struct work *work = calloc(1, sizeof *work);
  work->verb = MARK;
  work->mark = calloc(1, sizeof *work->mark);
  work->mark->stream = stream;
  submit(stream, work);
  return work->mark;
}

static int drain(void)
{
  for (struct thing *one = things; one; one = one->next)
    if (one->kind == STREAM && !((struct stream *)one)->capture && ((struct stream *)one)->first) {
      int code = run_until(put_mark((struct stream *)one));
      if (code) return code;
    }
  return OK;
}

static int copy(enum verb verb, char *device, char *host, size_t size, void *handle)
{
  REFUSE_WITHOUT_CONTEXT();
  struct stream *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  int pinned = is_pinned(host, size);
  if (!is_device(device, size) || pinned < 0 || !is_there(host, size)) return INVALID_VALUE;
  struct work *work = calloc(1, sizeof *work);
  *work = (struct work){.verb = verb, .device = device, .host = host, .size = size,
                        .was_pinned = pinned};
  if (!pinned && verb == COPY_IN && !stream->capture)
    work->staged = memcpy(malloc(size), host, size);
  int code = submit(stream, work);
  if (!code && !pinned && verb == COPY_OUT && !stream->capture)
    return run_until(put_mark(stream));
  return code;
}

static int record(void *handle, void *of)
{
  REFUSE_WITHOUT_CONTEXT();
  struct event *event = find(EVENT, handle);
  struct stream *stream = find(STREAM, of);
  if (!event || !stream) return INVALID_HANDLE;
  event->capture = stream->capture;
  event->tail = NULL;
  event->tail_count = 0;
  if (!stream->capture) { event->mark = put_mark(stream); return OK; }
  if (stream->capture->is_spoilt) return INVALIDATED;
  for (int at = 0; at < stream->tail_count; at++)
    note(&event->tail, &event->tail_count, stream->tail[at]);
  return OK;
}

static int wait_for(void *handle, void *of)
{
  REFUSE_WITHOUT_CONTEXT();
  struct stream *stream = find(STREAM, handle);
  struct event *event = find(EVENT, of);
  if (!stream || !event) return INVALID_HANDLE;
  if (event->capture) {
    if (!event->capture->is_open) return CAPTURED_EVENT;
    if (event->capture->is_spoilt) return INVALIDATED;
    if (stream->capture && stream->capture != event->capture) return MERGE;
    stream->capture = event->capture;
    for (int at = 0; at < event->tail_count; at++)
      note(&stream->tail, &stream->tail_count, event->tail[at]);
    return OK;
  }
  if (!event->mark) return OK; /* never set: nothing to wait for */
  if (stream->capture) { stream->capture->is_spoilt = 1; return ISOLATION; }
  struct work *work = calloc(1, sizeof *work);
  work->verb = WAIT;
  work->mark = event->mark;
  return submit(stream, work);
}

static int synchronize(void *handle)
{
  REFUSE_WITHOUT_CONTEXT();
  struct event *event = find(EVENT, handle);
  if (!event) return INVALID_HANDLE;
  if (event->capture) return CAPTURED_EVENT;
  int code = refused_by_capture();
  return code ? code : event->mark ? run_until(event->mark) : OK;
}

static int elapsed(float *ms, void *from, void *to)
{
  REFUSE_WITHOUT_CONTEXT();
  struct event *begin = find(EVENT, from), *end = find(EVENT, to);
  if (!begin || !end || !begin->mark || !end->mark || (begin->flags | end->flags) & 2)
    return INVALID_HANDLE;
  if (begin->capture || end->capture) return CAPTURED_EVENT;
  if (!begin->mark->is_done || !end->mark->is_done) return NOT_READY;
  *ms = (float)(end->mark->at_ms - begin->mark->at_ms);
  return OK;
}

/* ---- graphs ---- */

static int begin_capture(void *handle, int mode)
{
  REFUSE_WITHOUT_CONTEXT();
  struct stream *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  if (mode < 0 || mode > 2) return INVALID_VALUE;
  if (capturing) return ILLEGAL_STATE; /* of this fake: one at a time */
  capturing = stream->capture = calloc(1, sizeof *capturing);
  capturing->origin = stream;
  capturing->mode = mode;
  capturing->is_open = 1;
  capturing->thread = pthread_self();
  return OK;
}

static void reach(struct capture *capture, struct work **works, int count, char *is_reached)
{
  for (int at = 0; at < count; at++) {
    if (is_reached[works[at]->number]) continue;
    is_reached[works[at]->number] = 1;
    reach(capture, works[at]->needs, works[at]->need_count, is_reached);
  }
}

static int end_capture(void *handle, void **made)
{
  REFUSE_WITHOUT_CONTEXT();
  struct stream *stream = find(STREAM, handle);
  *made = NULL;
  if (!stream) return INVALID_HANDLE;
  struct capture *capture = stream->capture;
  if (!capture) return ILLEGAL_STATE;
  if (capture->origin != stream) return UNMATCHED;
  if (capture->mode != 2 && !pthread_equal(capture->thread, pthread_self())) return WRONG_THREAD;
  char *is_reached = calloc(capture->count + 1, 1);
  reach(capture, stream->tail, stream->tail_count, is_reached);
  int is_joined = strlen(is_reached) == (size_t)capture->count;
  free(is_reached);
  forget_capture();
  if (capture->is_spoilt) return INVALIDATED;
  if (!is_joined) return UNJOINED;
  struct graph *graph = make(GRAPH, sizeof *graph);
  graph->capture = capture;
  *made = graph;
  return OK;
}

static int instantiate(void **made, void *handle)
{
  REFUSE_WITHOUT_CONTEXT();
  struct graph *graph = find(GRAPH, handle);
  if (!graph) return INVALID_VALUE;
  struct graph *exec = make(EXEC, sizeof *exec);
  exec->capture = graph->capture;
  *made = exec;
  return OK;
}

static int launch_graph(void *handle, void *of)
{
  REFUSE_WITHOUT_CONTEXT();
  struct graph *exec = find(EXEC, handle);
  struct stream *stream = find(STREAM, of);
  if (!exec) return INVALID_VALUE;
  if (!stream) return INVALID_HANDLE;
  struct work *work = calloc(1, sizeof *work);
  work->verb = LAUNCH;
  work->graph = exec->capture;
  return submit(stream, work);
}

/* ---- kernels: of PTX only the names and the sizes of parameters are read ---- */

struct module { struct thing thing; char *ptx; };
struct function { struct thing thing; kernel kernel; int count; size_t sizes[MOST_VALUES]; };

static int load(void **made, const char *ptx)
{
  REFUSE_WITHOUT_CONTEXT();
  if (refused_by_capture()) return UNSUPPORTED;
  if (!strstr(ptx, ".version") || !strstr(ptx, ".target")) return INVALID_IMAGE;
  struct module *module = make(MODULE, sizeof *module);
  module->ptx = strdup(ptx);
  *made = module;
  return OK;
}

static int get_function(void **made, void *handle, const char *name)
{
  REFUSE_WITHOUT_CONTEXT();
  struct module *module = find(MODULE, handle);
  if (!module) return INVALID_HANDLE;
  char entry[256], symbol[256];
  snprintf(entry, sizeof entry, ".entry %s(", name);
  snprintf(symbol, sizeof symbol, "fake_%s", name);
  char *at = strstr(module->ptx, entry);
  void *library = dlopen(option("KERNELS", ""), RTLD_NOW);
  void *in_c = at && library ? dlsym(library, symbol) : NULL;
  if (!in_c) return NOT_FOUND;
  struct function *function = make(FUNCTION, sizeof *function);
  function->kernel = (kernel)in_c;
  char *end = strchr(at, ')');
  while ((at = strstr(at, ".param .")) && at < end) {
    int bits = 0;
    sscanf(at += strlen(".param ."), "%*1s%d", &bits);
    function->sizes[function->count++] = bits / 8;
  }
  *made = function;
  return OK;
}

static int launch(void *handle, const unsigned *shape, void *of, void **values, void **extra)
{
  REFUSE_WITHOUT_CONTEXT();
  struct function *function = find(FUNCTION, handle);
  struct stream *stream = find(STREAM, of);
  if (!function || !stream) return INVALID_HANDLE;
  unsigned threads = shape[3] * shape[4] * shape[5];
  if (!shape[0] || !shape[1] || !shape[2] || threads == 0 || threads > 1024) return INVALID_VALUE;
  struct work *work = calloc(1, sizeof *work);
  work->verb = KERNEL;
  work->kernel = function->kernel;
  memcpy(work->grid, shape, sizeof work->grid);
  memcpy(work->block, shape + 3, sizeof work->block);
  const char *packed = extra ? extra[1] : NULL; /* CU_LAUNCH_PARAM_BUFFER_POINTER comes first */
  size_t offset = 0;
  for (int at = 0; at < function->count; at++) {
    size_t size = function->sizes[at];
    offset = (offset + size - 1) / size * size;
    memcpy(&work->values[at], packed ? packed + offset : values[at], size);
    offset += size;
  }
  return submit(stream, work);
}

/* ---- the functions of the driver, in the order of its documentation ---- */

int cuGetErrorString(int code, const char **text)
{
  *text = NULL;
  for (size_t at = 0; at < sizeof WORDS / sizeof *WORDS; at++)
    if (WORDS[at].code == code) *text = WORDS[at].words;
  return *text ? OK : INVALID_VALUE;
}

int cuGetErrorName(int code, const char **text)
{
  static __thread char name[32];
  snprintf(name, sizeof name, "CUDA_ERROR_%d", code);
  *text = name;
  return OK;
}

int cuInit(unsigned flags)
{
  ENTER("cuInit");
  is_initialized = !number("INIT", 0);
  return flags ? INVALID_VALUE : (int)number("INIT", 0);
}

int cuDriverGetVersion(int *version)
{
  ENTER("cuDriverGetVersion");
  *version = (int)number("VERSION", 11040);
  return OK;
}

int cuDeviceGet(int *device, int ordinal)
{
  ENTER("cuDeviceGet");
  *device = 0;
  return !is_initialized ? NOT_INITIALIZED : ordinal ? INVALID_DEVICE : OK;
}

int cuDeviceGetCount(int *count) { *count = 1; return is_initialized ? OK : NOT_INITIALIZED; }

int cuDeviceGetName(char *name, int length, int device)
{
  ENTER("cuDeviceGetName");
  snprintf(name, length, "%s", option("NAME", "Xavier"));
  return device ? INVALID_DEVICE : OK;
}

int cuDeviceGetAttribute(int *value, int which, int device)
{
  ENTER("cuDeviceGetAttribute");
  const char *capability = option("CAPABILITY", "7.2");
  *value = which == 75 ? atoi(capability)
         : which == 76 ? atoi(strchr(capability, '.') + 1)
         : which == 18 ? (int)number("INTEGRATED", 0)
         : -1;
  return device ? INVALID_DEVICE : *value < 0 ? INVALID_VALUE : OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
  ENTER("cuDevicePrimaryCtxRetain");
  if (broken) return broken;
  if (device) return INVALID_DEVICE;
  __sync_fetch_and_add(&retained, 1);
  *context = &retained;
  return OK;
}

/* End the context: modules go with it. What was given back is kept until then, so that a handle
   used after that is never another thing's. */
static void reap(void)
{
  struct thing **place = &things;
  while (*place) {
    struct thing *one = *place;
    int is_busy = one->kind == STREAM && ((struct stream *)one)->first;
    if ((!one->gone && one->kind < MODULE) || is_busy) { place = &one->next; continue; }
    *place = one->next;
    if (one->kind == MODULE) free(((struct module *)one)->ptx);
    free(one);
  }
}

static int release_context(int device)
{
  if (device) return INVALID_DEVICE;
  if (retained <= 0) return INVALID_CONTEXT;
  if (retained == 1) drain();
  if (--retained == 0) reap();
  return broken;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
  ENTER("cuDevicePrimaryCtxRelease");
  WITH_LOCK(release_context(device));
}

int cuCtxPushCurrent_v2(void *context)
{
  ENTER("cuCtxPushCurrent");
  if (context != &retained || !retained) return INVALID_CONTEXT;
  depth++;
  __sync_fetch_and_add(&pushed, 1);
  return OK;
}

int cuCtxPopCurrent_v2(void **context)
{
  ENTER("cuCtxPopCurrent");
  if (!depth) return INVALID_CONTEXT;
  depth--;
  __sync_fetch_and_sub(&pushed, 1);
  if (context) *context = &retained;
  return OK;
}

int cuCtxSynchronize(void)
{
  ENTER("cuCtxSynchronize");
  REFUSE_WITHOUT_CONTEXT();
  WITH_LOCK(refused_by_capture() ? UNSUPPORTED : drain());
}

static int memory_info(size_t *free_bytes, size_t *total)
{
  REFUSE_WITHOUT_CONTEXT();
  *free_bytes = number("FREE", 6ull << 30) - in_use();
  *total = number("TOTAL", 8ull << 30);
  return OK;
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
  ENTER("cuMemGetInfo");
  WITH_LOCK(memory_info(free_bytes, total));
}

int cuMemAlloc_v2(address *made, size_t size)
{
  ENTER("cuMemAlloc");
  WITH_LOCK(refused_by_capture() ? UNSUPPORTED : allocate(made, size));
}

int cuMemFree_v2(address at)
{
  ENTER("cuMemFree");
  WITH_LOCK(refused_by_capture() ? UNSUPPORTED : release(at));
}

int cuMemHostRegister_v2(void *host, size_t size, unsigned flags)
{
  ENTER("cuMemHostRegister");
  WITH_LOCK(refused_by_capture() ? UNSUPPORTED : pin(host, size, flags));
}

int cuMemHostUnregister(void *host)
{
  ENTER("cuMemHostUnregister");
  WITH_LOCK(refused_by_capture() ? UNSUPPORTED : unpin(host));
}

int cuMemHostGetDevicePointer_v2(address *made, void *host, unsigned flags)
{
  ENTER("cuMemHostGetDevicePointer");
  WITH_LOCK(flags ? INVALID_VALUE : mapped(made, host));
}

int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t size, void *stream)
{
  ENTER("cuMemcpyHtoDAsync");
  WITH_LOCK(copy(COPY_IN, (char *)to, (char *)from, size, stream));
}

int cuMemcpyDtoHAsync_v2(void *to, address from, size_t size, void *stream)
{
  ENTER("cuMemcpyDtoHAsync");
  WITH_LOCK(copy(COPY_OUT, (char *)from, to, size, stream));
}

static int make_stream(void **made, unsigned flags)
{
  REFUSE_WITHOUT_CONTEXT();
  if (flags > 1) return INVALID_VALUE;
  *made = make(STREAM, sizeof(struct stream));
  return OK;
}

static int make_event(void **made, unsigned flags)
{
  REFUSE_WITHOUT_CONTEXT();
  if (flags > 3) return INVALID_VALUE;
  struct event *event = make(EVENT, sizeof *event);
  event->flags = flags;
  *made = event;
  return OK;
}

static int destroy(enum kind kind, void *handle)
{
  REFUSE_WITHOUT_CONTEXT();
  struct thing *thing = find(kind, handle);
  if (!thing) return INVALID_HANDLE;
  thing->gone = 1; /* what a stream has still to do stays in its queue */
  return OK;
}

int cuStreamCreate(void **made, unsigned flags)
{
  ENTER("cuStreamCreate");
  WITH_LOCK(make_stream(made, flags));
}

int cuStreamDestroy_v2(void *stream)
{
  ENTER("cuStreamDestroy");
  WITH_LOCK(destroy(STREAM, stream));
}

int cuStreamWaitEvent(void *stream, void *event, unsigned flags)
{
  ENTER("cuStreamWaitEvent");
  WITH_LOCK(flags ? INVALID_VALUE : wait_for(stream, event));
}

static int synchronize_stream(void *handle)
{
  REFUSE_WITHOUT_CONTEXT();
  struct stream *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) stream->capture->is_spoilt = 1;
  return stream->capture || refused_by_capture() ? UNSUPPORTED : run_until(put_mark(stream));
}

int cuStreamSynchronize(void *stream)
{
  ENTER("cuStreamSynchronize");
  WITH_LOCK(synchronize_stream(stream));
}

int cuStreamBeginCapture_v2(void *stream, int mode)
{
  ENTER("cuStreamBeginCapture");
  WITH_LOCK(begin_capture(stream, mode));
}

int cuStreamEndCapture(void *stream, void **graph)
{
  ENTER("cuStreamEndCapture");
  WITH_LOCK(end_capture(stream, graph));
}

int cuEventCreate(void **made, unsigned flags)
{
  ENTER("cuEventCreate");
  WITH_LOCK(make_event(made, flags));
}

int cuEventDestroy_v2(void *event)
{
  ENTER("cuEventDestroy");
  WITH_LOCK(destroy(EVENT, event));
}

int cuEventRecord(void *event, void *stream)
{
  ENTER("cuEventRecord");
  WITH_LOCK(record(event, stream));
}

int cuEventSynchronize(void *event)
{
  ENTER("cuEventSynchronize");
  WITH_LOCK(synchronize(event));
}

int cuEventElapsedTime(float *ms, void *begin, void *end)
{
  ENTER("cuEventElapsedTime");
  WITH_LOCK(elapsed(ms, begin, end));
}

int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags)
{
  ENTER("cuGraphInstantiate");
  WITH_LOCK(flags ? INVALID_VALUE : instantiate(made, graph));
}

int cuGraphLaunch(void *graph, void *stream)
{
  ENTER("cuGraphLaunch");
  WITH_LOCK(launch_graph(graph, stream));
}

int cuGraphExecDestroy(void *graph)
{
  ENTER("cuGraphExecDestroy");
  WITH_LOCK(destroy(EXEC, graph));
}

int cuGraphDestroy(void *graph)
{
  ENTER("cuGraphDestroy");
  WITH_LOCK(destroy(GRAPH, graph));
}

int cuModuleLoadData(void **made, const void *image)
{
  ENTER("cuModuleLoadData");
  WITH_LOCK(load(made, image));
}

int cuModuleUnload(void *module)
{
  ENTER("cuModuleUnload");
  WITH_LOCK(destroy(MODULE, module));
}

int cuModuleGetFunction(void **made, void *module, const char *name)
{
  ENTER("cuModuleGetFunction");
  WITH_LOCK(get_function(made, module, name));
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void *stream, void **values, void **extra)
{
  ENTER("cuLaunchKernel");
  const unsigned shape[] = {grid_x, grid_y, grid_z, block_x, block_y, block_z};
  (void)shared;
  WITH_LOCK(launch(function, shape, stream, values, extra));
}

/* ---- for the tests ---- */

/* Let `call` do its work when the stream comes to it; captured as well. For the fake TensorRT. */
int fake_enqueue(void *handle, callback call, void *argument)
{
  ENTER("fake_enqueue");
  pthread_mutex_lock(&lock);
  struct stream *stream = find(STREAM, handle);
  int code = broken ? broken : stream ? OK : INVALID_HANDLE;
  if (!code) {
    struct work *work = calloc(1, sizeof *work);
    *work = (struct work){.verb = CALL_BACK, .callback = call, .argument = argument};
    code = submit(stream, work);
  }
  pthread_mutex_unlock(&lock);
  return code;
}

/* Whether all of it is the GPU's memory, or host memory that it sees. */
int fake_is_device(address at, size_t size)
{
  pthread_mutex_lock(&lock);
  int is_one = is_device((char *)at, size);
  pthread_mutex_unlock(&lock);
  return is_one;
}

int fake_is_capturing(void *stream)
{
  struct stream *found = find(STREAM, stream);
  return found && found->capture;
}

static int held;

static void stay(void *argument)
{
  (void)argument;
  struct timespec nap = {0, 1000000};
  for (int ms = 0; __atomic_load_n(&held, __ATOMIC_SEQ_CST); ms++) {
    if (ms > 20000) { broken = TIMEOUT; return; }
    nanosleep(&nap, NULL);
  }
}

/* The stream goes no further until fake_let_go, from another thread; after 20 s that is a fault. */
int fake_hold(void *stream)
{
  __atomic_store_n(&held, 1, __ATOMIC_SEQ_CST);
  return fake_enqueue(stream, stay, NULL);
}

void fake_let_go(void) { __atomic_store_n(&held, 0, __ATOMIC_SEQ_CST); }

void fake_fault(const char *text)
{
  pthread_mutex_lock(&lock);
  snprintf(faults, sizeof faults, "%s", text);
  memset(calls, 0, sizeof calls);
  pthread_mutex_unlock(&lock);
}

long fake_count(const char *name) { return called(name)->count; }

/* All that wasn't given back, in words; empty: nothing. */
const char *fake_left_words(void)
{
  static char text[512];
  int counts[KINDS] = {0}, length = 0;
  text[0] = 0;
  for (struct thing *one = things; one; one = one->next) counts[one->kind] += !one->gone;
  if (retained) length += snprintf(text, sizeof text, "%d retained, ", retained);
  if (pushed) length += snprintf(text + length, sizeof text - length, "%d pushed, ", pushed);
  if (illegal) length += snprintf(text + length, sizeof text - length, "%d illegal, ", illegal);
  for (int kind = 0; kind < MODULE; kind++)
    if (counts[kind])
      length += snprintf(text + length, sizeof text - length, "%d %s(s), ", counts[kind],
                         KIND[kind]);
  if (length) text[length - 2] = 0;
  return text;
}

int fake_left(void)
{
  int count = retained + pushed + illegal;
  for (struct thing *one = things; one; one = one->next)
    count += one->kind < MODULE && !one->gone;
  return count;
}

/* As if the process had just begun. */
void fake_reset(void)
{
  pthread_mutex_lock(&lock);
  while (things) {
    struct thing *next = things->next;
    if (things->kind == MEMORY && !things->gone) free(((struct range *)things)->base);
    free(things);
    things = next;
  }
  retained = pushed = broken = illegal = is_initialized = depth = held = 0;
  capturing = NULL;
  memset(calls, 0, sizeof calls);
  snprintf(faults, sizeof faults, "%s", option("FAULT", ""));
  pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void begin(void)
{
  Dl_info here;
  char path[4096];
  dladdr((void *)begin, &here);
  snprintf(path, sizeof path, "%s", here.dli_fname);
  char *slash = strrchr(path, '/');
  strcpy(slash ? slash + 1 : path, "options");
  beside[0] = '\n';
  FILE *file = fopen(path, "r");
  if (file) {
    beside[1 + fread(beside + 1, 1, sizeof beside - 2, file)] = 0;
    fclose(file);
  }
  snprintf(faults, sizeof faults, "%s", option("FAULT", ""));
}

__attribute__((destructor)) static void end(void)
{
  const char *path = option("REPORT", NULL);
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "%d: %s\n", getpid(), fake_left() ? fake_left_words() : "nothing left");
  fclose(file);
}
