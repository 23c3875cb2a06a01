# The threads of a data plane without the GIL. Contracts are in p2pfill/hot/lanes.py.

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, const void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    ctypedef struct pthread_cond_t:
        pass
    int pthread_cond_init(pthread_cond_t*, const void*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_broadcast(pthread_cond_t*)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_wait(int, epoll_event*, int, int)
    int epoll_ctl(int, int, int, epoll_event*)
    const int EPOLL_CTL_MOD
    const uint32_t EPOLLIN
    const uint32_t EPOLLOUT
    const uint32_t EPOLLONESHOT

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int, int, ...)
    const int F_DUPFD_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    int close(int)
    int usleep(unsigned int)

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char*, Py_ssize_t, int)
    const int PyBUF_READ

cdef extern from *:
    """
    #include <pthread.h>
    /* Guards the tables of all planes and the counts of references: held for a few instructions. */
    static pthread_mutex_t p2pfill_tables = PTHREAD_MUTEX_INITIALIZER;
    /* A process that is forked has none of the threads that may hold it, and lets lanes go as any other. */
    static void p2pfill_lock_tables(void) { pthread_mutex_lock(&p2pfill_tables); }
    static void p2pfill_unlock_tables(void) { pthread_mutex_unlock(&p2pfill_tables); }
    static int p2pfill_mind_forks(void) {
        return pthread_atfork(p2pfill_lock_tables, p2pfill_unlock_tables, p2pfill_unlock_tables);
    }
    #define p2pfill_load(where) __atomic_load_n((where), __ATOMIC_ACQUIRE)
    #define p2pfill_store(where, what) __atomic_store_n((where), (what), __ATOMIC_RELEASE)
    #define p2pfill_add(where, what) __atomic_fetch_add((where), (what), __ATOMIC_RELAXED)
    """
    pthread_mutex_t p2pfill_tables
    int p2pfill_mind_forks()
    uint8_t p2pfill_load_byte "p2pfill_load"(const uint8_t*) nogil
    int p2pfill_load_int "p2pfill_load"(int*) nogil
    int64_t p2pfill_load_long "p2pfill_load"(int64_t*) nogil
    void p2pfill_store_int "p2pfill_store"(int*, int) nogil
    void p2pfill_add_long "p2pfill_add"(int64_t*, int64_t) nogil

if p2pfill_mind_forks() != 0:
    raise MemoryError

cdef enum:
    HEAD_BYTES_MAX = 64
    RUN_CHUNKS = 16  # as lanes.RUN_CHUNKS
    WARM_BYTES = 65536  # as lanes.WARM_BYTES
    RELIEF_US = 20000  # as lanes.RELIEF_S
    STAY_MS = 1  # of a thread without work, before it rests
    QUIET_LOOKS = 50  # of nothing to do, after which nobody looks any more

cdef enum Way:
    WAY_NONE = 0
    WAY_RECEIVE = 1
    WAY_SEND = 2
    WAY_HEAD = 3

cdef enum Ending:
    ENDING_NONE = 0  # it is done, or was interrupted
    ENDING_ERRNO = 1
    ENDING_EOF = 2  # of the socket when receiving, of the file when sending

cdef struct Right:
    pthread_mutex_t mutex
    int64_t takes  # how often it was taken; below `mutex`

cdef struct LaneState:
    pthread_mutex_t lock  # held by the thread that serves the stream
    int refs  # below p2pfill_tables: of its Lane, and of a thread that is at it
    int sock_fd
    int interrupted
    int low_water
    # What is to be moved; below `lock`.
    int way
    int file_fd
    int64_t offset
    int64_t left
    int64_t rest  # of the chunk after these bytes
    int64_t moved  # by what was posted, the head among it
    int ending
    int error
    Right* right
    const uint8_t* may_write
    const uint8_t* sealed
    uint8_t head[HEAD_BYTES_MAX]
    int head_at
    int head_bytes
    int head_ended  # the socket, before all of a head has come
    int next_head  # bytes to take, where they are there, after the last of a chunk
    XXH3_state_t* hash
    void* update  # a Python object that `keeps` has, or NULL
    int64_t hashed
    int64_t seen  # `takes` of the right when this took it last
    int64_t total
    StreamStats spent

cdef enum Step:
    STEP_MOVE
    STEP_WAIT
    STEP_CALL


cdef void let_go(LaneState* lane) noexcept nogil:
    cdef int refs
    pthread_mutex_lock(&p2pfill_tables)
    lane.refs -= 1
    refs = lane.refs
    pthread_mutex_unlock(&p2pfill_tables)
    if refs == 0:
        if lane.file_fd >= 0:
            close(lane.file_fd)
        XXH3_freeState(lane.hash)
        pthread_mutex_destroy(&lane.lock)
        free(lane)


cdef void set_low_water(LaneState* lane, int count) noexcept nogil:
    if count != lane.low_water:
        lane.low_water = count
        setsockopt(lane.sock_fd, SOL_SOCKET, SO_RCVLOWAT, &count, sizeof(count))


cdef Step ended(LaneState* lane, Ending ending, int error) noexcept nogil:
    lane.ending, lane.error = ending, error
    return STEP_CALL


cdef Step went(LaneState* lane, int64_t count, int error) noexcept nogil:
    """Note what a loop over descriptors has returned, and say what follows from that."""
    if count == FAULT_EOF:
        return ended(lane, ENDING_EOF, 0)
    if count == FAULT_ERRNO:
        return ended(lane, ENDING_ERRNO, error)
    lane.offset += count
    lane.left -= count
    lane.moved += count
    p2pfill_add_long(&lane.total, count)
    return STEP_MOVE


cdef void hash_warm(LaneState* lane, uint8_t* buffer, int64_t count) noexcept nogil:
    cdef int64_t began_ns
    if count < WARM_BYTES and lane.left + lane.rest:
        lane.update = NULL
        return
    with gil:
        began_ns = now_ns()
        try:
            view = PyMemoryView_FromMemory(<char*>buffer, <Py_ssize_t>count, PyBUF_READ)
            (<object>lane.update)(view)
            view.release()
            lane.hashed += count
        except BaseException:
            lane.update, lane.hashed = NULL, -1
        lane.spent.hash_ns += now_ns() - began_ns


cdef Step head_step(LaneState* lane) noexcept nogil:
    cdef ssize_t n
    while lane.head_at < lane.head_bytes:
        n = recv(lane.sock_fd, lane.head + lane.head_at, <size_t>(lane.head_bytes - lane.head_at), MSG_DONTWAIT)
        if n > 0:
            lane.head_at += <int>n
        elif n == 0:
            lane.head_ended = True
            return STEP_CALL
        elif errno == EAGAIN:
            set_low_water(lane, 1)
            return STEP_WAIT
        elif errno != EINTR:
            return ended(lane, ENDING_ERRNO, errno)
    return STEP_CALL


cdef void take_next_head(LaneState* lane) noexcept nogil:
    """Where it is not there, or the socket is broken, who waits for it next sees to that."""
    cdef ssize_t n
    lane.head_at, lane.head_bytes = 0, lane.next_head
    if lane.next_head:
        n = recv(lane.sock_fd, lane.head, <size_t>lane.next_head, MSG_DONTWAIT)
        lane.head_at = <int>max(n, <ssize_t>0)


cdef Step receive_step(LaneState* lane, uint8_t* buffer) noexcept nogil:
    cdef int64_t wanted, taken
    cdef int error = 0
    while lane.left:
        if p2pfill_load_int(&lane.interrupted):
            return STEP_CALL
        pthread_mutex_lock(&lane.right.mutex)
        if not p2pfill_load_byte(lane.may_write) or p2pfill_load_byte(lane.sealed):
            pthread_mutex_unlock(&lane.right.mutex)
            return STEP_CALL
        if lane.hashed > 0 and lane.right.takes != lane.seen:
            lane.update, lane.hashed = NULL, -1
        lane.right.takes += 1
        lane.seen = lane.right.takes
        wanted = min(<int64_t>SLICE_BYTES, lane.left)
        taken = recv_loop(lane.hash, buffer, SLICE_BYTES, lane.sock_fd, lane.file_fd, lane.offset, wanted,
                          &lane.spent, &error)
        pthread_mutex_unlock(&lane.right.mutex)
        if went(lane, taken, error) == STEP_CALL:
            return STEP_CALL
        if lane.update != NULL and taken:
            hash_warm(lane, buffer, taken)
        if taken < wanted:
            set_low_water(lane, low_water_of(lane.sock_fd, lane.left + lane.rest))
            return STEP_WAIT
    take_next_head(lane)
    return STEP_CALL


cdef Step send_step(LaneState* lane) noexcept nogil:
    cdef ssize_t n
    cdef int64_t sent
    cdef int error = 0
    while lane.head_at < lane.head_bytes:
        if p2pfill_load_int(&lane.interrupted):
            return STEP_CALL
        n = send(lane.sock_fd, lane.head + lane.head_at, <size_t>(lane.head_bytes - lane.head_at),
                 MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE)
        if n >= 0:
            lane.head_at += <int>n
            lane.moved += n
        elif errno == EAGAIN:
            return STEP_WAIT
        elif errno != EINTR:
            return ended(lane, ENDING_ERRNO, errno)
    if lane.left and not p2pfill_load_int(&lane.interrupted):
        sent = send_file_loop(lane.sock_fd, lane.file_fd, lane.offset, lane.left, &error)
        if went(lane, sent, error) == STEP_MOVE and lane.left:
            return STEP_WAIT
    return STEP_CALL


cdef Step move(LaneState* lane, uint8_t* buffer) noexcept nogil:
    if p2pfill_load_int(&lane.interrupted) or lane.ending != ENDING_NONE:
        return STEP_CALL
    if lane.way == WAY_RECEIVE:
        return receive_step(lane, buffer)
    if lane.way == WAY_SEND:
        return send_step(lane)
    if lane.way == WAY_HEAD:
        return head_step(lane)
    return STEP_CALL


cdef class WriteLock:
    cdef Right right

    def __cinit__(self):
        pthread_mutex_init(&self.right.mutex, NULL)
        self.right.takes = 0

    def __dealloc__(self):
        pthread_mutex_destroy(&self.right.mutex)

    cdef void lock(self) noexcept:
        if pthread_mutex_trylock(&self.right.mutex) != 0:
            with nogil:
                pthread_mutex_lock(&self.right.mutex)

    def __enter__(self):
        self.lock()
        self.right.takes += 1
        return self

    def __exit__(self, *exc):
        pthread_mutex_unlock(&self.right.mutex)


cdef class Lane:
    cdef LaneState* state
    cdef object keeps  # what the state points into
    cdef object fault
    cdef Lent flag, seals
    cdef uint8_t* buffer
    cdef public object turn

    def __cinit__(self, int sock_fd):
        self.state = <LaneState*>malloc(sizeof(LaneState))
        if self.state == NULL:
            raise MemoryError
        memset(self.state, 0, sizeof(LaneState))
        self.state.refs, self.state.sock_fd, self.state.file_fd, self.state.low_water = 1, sock_fd, -1, 1
        pthread_mutex_init(&self.state.lock, NULL)
        self.state.hash = XXH3_createState()
        if self.state.hash == NULL:
            raise MemoryError
        XXH3_128bits_reset(self.state.hash)

    def __dealloc__(self):
        free(self.buffer)
        if self.state != NULL:
            let_go(self.state)

    cdef int take_file(self, int file_fd) except -1:
        cdef LaneState* state = self.state
        cdef int mine = fcntl(file_fd, F_DUPFD_CLOEXEC, 0)
        if mine < 0:
            raise os_error(errno)
        if state.file_fd >= 0:
            close(state.file_fd)
        state.file_fd = mine
        return 0

    def post_receive(self, WriteLock right not None, flag, sealed, Py_ssize_t chunk, int file_fd, int64_t offset,
                     int64_t length, int64_t rest, update=None, int head=0):
        cdef LaneState* state = self.state
        cdef Lent may_write = Lent(flag), seals = Lent(sealed)
        if may_write.view.len < 1 or not 0 <= chunk < seals.view.len:
            raise ValueError("chunk or flag is outside of its buffer")
        if not 0 <= head <= HEAD_BYTES_MAX:
            raise ValueError("a head is too long")
        self.take_file(file_fd)
        self.keeps, self.flag, self.seals = (right, update), may_write, seals
        state.update = NULL if update is None else <void*>update
        state.right = &right.right
        state.may_write = <const uint8_t*>may_write.view.buf
        state.sealed = <const uint8_t*>seals.view.buf + chunk
        state.offset, state.left, state.rest, state.moved = offset, length, rest, 0
        state.head_at, state.next_head = 0, head
        state.way = WAY_RECEIVE

    def post_head(self, int count):
        cdef LaneState* state = self.state
        if not 0 < count <= HEAD_BYTES_MAX:
            raise ValueError("a head is too long")
        state.head_at, state.head_bytes, state.head_ended, state.moved = 0, count, False, 0
        state.way = WAY_HEAD

    def take_head(self):
        cdef LaneState* state = self.state
        cdef int count = 0 if state.way == WAY_SEND else state.head_at
        state.head_at = 0
        return <bytes>(<char*>state.head)[:count]

    @property
    def head_ended(self):
        return bool(self.state.head_ended)

    @property
    def head_bytes(self):
        return self.state.head_at if self.state.way == WAY_HEAD else 0

    def post_send(self, head, int file_fd, int64_t offset, int64_t length):
        cdef LaneState* state = self.state
        cdef Lent lent = Lent(head)
        if lent.view.len > HEAD_BYTES_MAX:
            raise ValueError("a head is too long")
        self.take_file(file_fd)
        memcpy(state.head, lent.view.buf, <size_t>lent.view.len)
        state.head_at, state.head_bytes = 0, <int>lent.view.len
        state.offset, state.left, state.rest, state.moved = offset, length, 0, 0
        state.way = WAY_SEND

    def take(self):
        cdef LaneState* state = self.state
        cdef int ending = state.ending, error = state.error, way = state.way
        cdef int64_t moved = state.moved
        state.way, state.ending, state.moved = WAY_NONE, ENDING_NONE, 0
        if state.file_fd >= 0:
            close(state.file_fd)
            state.file_fd = -1
        state.update = NULL
        self.keeps = self.flag = self.seals = None
        if ending == ENDING_EOF:
            self.fault = (ConnectionResetError("the peer closed the connection") if way == WAY_RECEIVE
                          else EOFError(f"file ends before {state.offset + state.left}"))
        elif ending != ENDING_NONE:
            self.fault = os_error(error)
        return moved

    def check(self):
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    @property
    def sock_fd(self):
        return self.state.sock_fd

    @property
    def moving_bytes(self):
        return p2pfill_load_long(&self.state.moved)

    @property
    def moved_bytes(self):
        return p2pfill_load_long(&self.state.total)

    def interrupt(self):
        p2pfill_store_int(&self.state.interrupted, 1)

    def set_low_water(self, int count):
        set_low_water(self.state, count)

    def wait_unserved(self):
        with nogil:
            pthread_mutex_lock(&self.state.lock)
            pthread_mutex_unlock(&self.state.lock)

    def reset(self):
        XXH3_128bits_reset(self.state.hash)
        self.state.hashed = 0

    @property
    def updated_bytes(self):
        return self.state.hashed

    def had_alone(self, WriteLock right not None):
        right.lock()
        cdef bint alone = right.right.takes == self.state.seen
        pthread_mutex_unlock(&right.right.mutex)
        return alone

    def digest(self):
        cdef unsigned char digest[16]
        p2pfill_xxh3_digest(self.state.hash, digest)
        return <bytes>(<char*>digest)[:16]

    def spent_ns(self):
        return self.state.spent.hash_ns, self.state.spent.write_ns

    def recv_to_file(self, int file_fd, int64_t offset, int64_t length):
        cdef int error = 0
        cdef int64_t taken
        if self.buffer == NULL:
            self.buffer = <uint8_t*>malloc(SLICE_BYTES)
            if self.buffer == NULL:
                raise MemoryError
        with nogil:
            taken = recv_loop(self.state.hash, self.buffer, SLICE_BYTES, self.state.sock_fd, file_fd,
                              offset, length, &self.state.spent, &error)
        if taken == FAULT_EOF:
            raise ConnectionResetError("the peer closed the connection")
        if taken == FAULT_ERRNO:
            raise os_error(error)
        p2pfill_add_long(&self.state.total, taken)
        return taken

    def send_file(self, int file_fd, int64_t offset, int64_t length):
        cdef int64_t sent = send_file(self.state.sock_fd, file_fd, offset, length)
        p2pfill_add_long(&self.state.total, sent)
        return sent


cdef enum Watch:
    WATCH_NONE
    WATCH_LOOKS
    WATCH_SLEEPS

cdef class Lanes:
    cdef object epoll  # keeps the descriptor
    cdef int epoll_fd
    cdef int stopping
    # Which thread does what; below `gate`.
    cdef pthread_mutex_t gate
    cdef pthread_cond_t relief, awake
    cdef bint waits  # one waits for sockets
    cdef int64_t pauses  # how often one had to
    cdef Watch watch  # whether one watches the others, and how
    cdef LaneState** table  # by descriptor; below p2pfill_tables
    cdef size_t size
    cdef dict lanes

    def __cinit__(self, epoll not None):
        self.epoll, self.epoll_fd = epoll, epoll.fileno()
        self.lanes = {}
        pthread_mutex_init(&self.gate, NULL)
        pthread_cond_init(&self.relief, NULL)
        pthread_cond_init(&self.awake, NULL)

    def __dealloc__(self):
        # The conditions are not destroyed: a forked process would wait for threads to leave them that it does not have.
        free(self.table)
        pthread_mutex_destroy(&self.gate)

    def add(self, Lane lane not None):
        cdef size_t fd = <size_t>lane.state.sock_fd, size = max(<size_t>64, self.size), i
        cdef LaneState** table
        if lane.state.sock_fd < 0:
            raise ValueError("a socket that is closed")
        while size <= fd:
            size *= 2
        pthread_mutex_lock(&p2pfill_tables)
        if size > self.size:
            table = <LaneState**>realloc(self.table, size * sizeof(LaneState*))
            if table == NULL:
                pthread_mutex_unlock(&p2pfill_tables)
                raise MemoryError
            for i in range(self.size, size):
                table[i] = NULL
            self.table, self.size = table, size
        self.table[fd] = lane.state
        pthread_mutex_unlock(&p2pfill_tables)
        self.lanes[fd] = lane

    def remove(self, Lane lane not None):
        cdef size_t fd = <size_t>lane.state.sock_fd
        cdef bint here = False
        pthread_mutex_lock(&p2pfill_tables)
        if fd < self.size and self.table[fd] == lane.state:
            self.table[fd] = NULL
            here = True
        pthread_mutex_unlock(&p2pfill_tables)
        if here:
            del self.lanes[fd]

    def stop(self):
        p2pfill_store_int(&self.stopping, 1)
        pthread_mutex_lock(&self.gate)
        pthread_cond_broadcast(&self.relief)
        pthread_cond_broadcast(&self.awake)
        pthread_mutex_unlock(&self.gate)

    cdef LaneState* find(self, int fd) noexcept nogil:
        cdef LaneState* lane = NULL
        pthread_mutex_lock(&p2pfill_tables)
        if 0 <= fd and <size_t>fd < self.size:
            lane = self.table[fd]
            if lane != NULL:
                lane.refs += 1
        pthread_mutex_unlock(&p2pfill_tables)
        return lane

    cdef void arm(self, LaneState* lane) noexcept nogil:
        cdef epoll_event event
        # Not for the remote's end of its half, which would wake a thread again and again while there is no room.
        event.events = (EPOLLOUT if lane.way == WAY_SEND else EPOLLIN) | EPOLLONESHOT
        event.data.u64 = 0
        event.data.fd = lane.sock_fd
        pthread_mutex_lock(&p2pfill_tables)
        # Where it was removed, another one may have its descriptor by now.
        if self.table[lane.sock_fd] == lane:
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, lane.sock_fd, &event)
        pthread_mutex_unlock(&p2pfill_tables)

    cdef bint next_event(self, epoll_event* event) noexcept nogil:
        """Have the next socket that is ready, as the one thread that waits for them or as one that relieves it.

        False where it is stopped.
        """
        cdef int count
        while not p2pfill_load_int(&self.stopping):
            count = epoll_wait(self.epoll_fd, event, 1, 0)
            if count == 1:
                return not p2pfill_load_int(&self.stopping)
            pthread_mutex_lock(&self.gate)
            if self.waits:
                pthread_mutex_unlock(&self.gate)
                # Where much is moved something comes at once.
                if epoll_wait(self.epoll_fd, event, 1, STAY_MS) == 1:
                    return not p2pfill_load_int(&self.stopping)
                pthread_mutex_lock(&self.gate)
                if self.waits:
                    self.rest()
                pthread_mutex_unlock(&self.gate)
                continue
            self.waits = True
            self.pauses += 1
            pthread_mutex_unlock(&self.gate)
            count = epoll_wait(self.epoll_fd, event, 1, -1)
            pthread_mutex_lock(&self.gate)
            self.waits = False
            if self.watch == WATCH_SLEEPS:
                pthread_cond_signal(&self.awake)
            pthread_mutex_unlock(&self.gate)
            if count == 1:
                return not p2pfill_load_int(&self.stopping)
        return False

    cdef void rest(self) noexcept nogil:
        """Do nothing until the others need one more; with the gate held. One of those that rest looks for the rest."""
        cdef int64_t seen
        cdef int quiet = 0
        while self.watch != WATCH_NONE and not p2pfill_load_int(&self.stopping):
            pthread_cond_wait(&self.relief, &self.gate)
        self.watch = WATCH_LOOKS
        seen = self.pauses
        while not p2pfill_load_int(&self.stopping):
            if quiet == QUIET_LOOKS and self.waits:
                self.watch = WATCH_SLEEPS
                pthread_cond_wait(&self.awake, &self.gate)
                self.watch, seen, quiet = WATCH_LOOKS, self.pauses, 0
                continue
            pthread_mutex_unlock(&self.gate)
            usleep(RELIEF_US)
            pthread_mutex_lock(&self.gate)
            if self.pauses != seen:
                seen, quiet = self.pauses, 0
            elif self.waits:
                quiet += 1
            else:
                break  # nobody has come to wait: they are held up, or have more to do than they can
        self.watch = WATCH_NONE
        pthread_cond_signal(&self.relief)

    cdef LaneState* next_call(self, uint8_t* buffer, uint32_t* ready) noexcept nogil:
        """Serve streams until one has to be called, which is returned locked; NULL where it is stopped."""
        cdef epoll_event event
        cdef LaneState* lane
        while True:
            if not self.next_event(&event):
                return NULL
            lane = self.find(event.data.fd)
            if lane == NULL:
                continue
            pthread_mutex_lock(&lane.lock)
            if move(lane, buffer) == STEP_CALL:
                ready[0] = event.events
                return lane
            self.arm(lane)
            pthread_mutex_unlock(&lane.lock)
            let_go(lane)

    cdef bint call(self, LaneState* state, uint32_t ready) noexcept:
        """Call the turn of a stream; tell whether it has posted something to be moved at once."""
        cdef Lane lane = self.lanes.get(state.sock_fd)
        if lane is None or lane.state != state:
            return False
        p2pfill_store_int(&state.interrupted, 0)
        return lane.turn(ready)  # what it raises is reported, and it is not served any more

    def serve(self):
        cdef uint8_t* buffer = <uint8_t*>malloc(SLICE_BYTES)
        cdef LaneState* lane
        cdef uint32_t ready = 0
        cdef int runs
        cdef Step step
        if buffer == NULL:
            raise MemoryError
        while True:
            with nogil:
                lane = self.next_call(buffer, &ready)
            if lane == NULL:
                break
            runs = 0
            while self.call(lane, ready):
                runs += 1
                ready = 0
                with nogil:
                    # After so many others have their turn. The kernel tells of it again at once, if it waits for
                    # no more than there is: what it was last told of may be more than is left of the chunk.
                    if runs < RUN_CHUNKS:
                        step = move(lane, buffer)
                    else:
                        step = STEP_WAIT
                        set_low_water(lane, 1)
                    if step == STEP_WAIT:
                        self.arm(lane)
                if step == STEP_WAIT:
                    break
            pthread_mutex_unlock(&lane.lock)
            let_go(lane)
        free(buffer)
