/*
 * larder.h: an LLM inference engine that a program links.
 *
 * A first program
 *
 *     larder_options options;
 *     larder_options_init(&options);
 *     options.memory_limit_bytes = (uint64_t)2 << 30;
 *     larder_engine *engine = NULL;
 *     if (larder_engine_create("model.gguf", &options, &engine) != LARDER_OK) {
 *         fprintf(stderr, "%s\n", larder_last_error());
 *         return 1;
 *     }
 *     larder_request_options request;
 *     larder_request_options_init(&request);
 *     request.prompt_text.data = "Once upon a time";
 *     request.prompt_text.length = 16;
 *     request.max_new_tokens = 64;
 *     larder_request handle;
 *     int running = larder_request_submit(engine, &request, &handle) == LARDER_OK;
 *     while (running) {
 *         larder_event events[16];
 *         size_t n_events = 0;
 *         if (larder_engine_step(engine, events, 16, &n_events) != LARDER_OK) break;
 *         for (size_t i = 0; i < n_events; i++) {
 *             fwrite(events[i].text, 1, events[i].text_length, stdout);
 *             running = running && events[i].kind == LARDER_EVENT_TOKEN;
 *         }
 *     }
 *     larder_engine_release(engine);
 *
 * Lifecycle   plan (optional) -> create -> { sequences + forward | requests + step } -> release. One engine is one
 *             model on one device with its KV repo and its compute area. Any number of engines in a process.
 *             Both ways may be mixed on one engine: sequences and requests share the KV repo's token slots.
 * Memory      Everything is reserved by create; nothing is allocated afterwards, but for the results of the text
 *             calls. larder_engine_plan tells the bytes beforehand, larder_engine_memory the same ones afterwards.
 *             What the host passes in is copied during the call; what it gets is valid as its comment says.
 * Threads     Each function says which calls may run at once. const engine: does not change it. A call that must
 *             wait for another returns LARDER_BUSY in place of waiting. larder's own threads start at create, as
 *             many as options.n_threads says (1: none), sleep between calls, and end at release. They need no
 *             stack of the host's; a calling thread needs 64 KiB.
 * Errors      Every function that can fail returns larder_status; 0 is success, each failure a negative code.
 *             larder_last_error() has the reason in words, per thread. Outputs are written on success only, unless
 *             said otherwise. Nothing aborts, exits, prints, raises, or touches signals. A defect of larder becomes
 *             LARDER_INTERNAL; its engine then answers LARDER_ENGINE_FAILED to everything but release.
 * Handles     An engine is a pointer: using one after its release is undefined, as with free. Sequences and requests
 *             are numbers that carry a generation: a stale one, or another engine's, is LARDER_STALE_HANDLE.
 * Structs     Begin with struct_size, set by their init function (events have none: their size is fixed). Zero is the
 *             default of every field. A struct shorter than the library's, from an older header, has defaults for
 *             what it lacks; a longer one must have zeros there.
 * Text        UTF-8, pointer and length; length 0 allows NULL. No result is NUL-terminated but larder_last_error's
 *             and larder_version's.
 */

#ifndef LARDER_H
#define LARDER_H

#include <stddef.h>
#include <stdint.h>

/** The version of the binary interface: it changes when a program built with an older header would break. */
#define LARDER_ABI_VERSION 1

/** The version of the library that this header came with: the first number. */
#define LARDER_VERSION_MAJOR 0

/** The version of the library that this header came with: the second number. */
#define LARDER_VERSION_MINOR 1

/** The version of the library that this header came with: the third number. */
#define LARDER_VERSION_PATCH 0

/** Success. */
#define LARDER_OK 0

/** An argument or a field is out of range; the message names it. */
#define LARDER_INVALID_ARGUMENT -1

/** A handle that was released before, or that belongs to another engine. */
#define LARDER_STALE_HANDLE -2

/** Another call is running on this engine: try again when it has returned. */
#define LARDER_BUSY -3

/** A file could not be opened or read. */
#define LARDER_IO -4

/** The model's files contradict themselves; the message names the place. */
#define LARDER_BAD_MODEL -5

/** Well formed, but not for this build, device or version. */
#define LARDER_UNSUPPORTED -6

/** More memory than the limit or the machine has; the message says which number to change, and to what. */
#define LARDER_OUT_OF_MEMORY -7

/** The KV repo has fewer free token slots than needed. Nothing was changed. */
#define LARDER_OUT_OF_SLOTS -8

/** A max_ of the options is reached; the message names it. */
#define LARDER_LIMIT_REACHED -9

/** The caller's buffer is too small; *needed is set. */
#define LARDER_BUFFER_TOO_SMALL -10

/** The device or its driver failed. */
#define LARDER_DEVICE -11

/** A callback of the host asked to stop. */
#define LARDER_CANCELLED -12

/** An earlier error left the engine unusable: only release works. */
#define LARDER_ENGINE_FAILED -13

/** A defect of larder, caught at the border. The engine is unusable from then on. */
#define LARDER_INTERNAL -14

/** hooks.allocate: ordinary memory. */
#define LARDER_BLOCK_HOST 0

/** hooks.allocate: page-locked memory. */
#define LARDER_BLOCK_HOST_PINNED 1

/** hooks.allocate: memory of the device. */
#define LARDER_BLOCK_DEVICE 2

/** options.device: the processor. */
#define LARDER_DEVICE_CPU 0

/** options.device: a CUDA GPU, number options.device_index. */
#define LARDER_DEVICE_CUDA 1

/** options.k_type and v_type: bfloat16. */
#define LARDER_KV_BF16 0

/** options.k_type and v_type: IEEE half precision. */
#define LARDER_KV_F16 1

/** options.k_type and v_type: IEEE single precision. */
#define LARDER_KV_F32 2

/** options.k_type and v_type: 8-bit integers with a scale per token and head. On CUDA devices. */
#define LARDER_KV_INT8 3

/** options.k_type and v_type: 8-bit floats (e4m3) with a scale per token and head. On CUDA devices. */
#define LARDER_KV_FP8 4

/** options.area_mode: chosen at create from the device and the other options. */
#define LARDER_AREA_AUTO 0

/** options.area_mode: the smallest compute area. */
#define LARDER_AREA_SHORT 1

/** options.area_mode: wide tiles. */
#define LARDER_AREA_LONG 2

/** options.flags: quantised weights meet f32 activations instead of 8-bit ones; slower, closer to the reference. */
#define LARDER_FLAG_EXACT_ACTIVATIONS 1

/**
 * options.flags: weight matrices that the file has as plain floats are stored as 8-bit floats (e4m3) with a scale
 * per output row. On CUDA devices.
 */
#define LARDER_FLAG_CUDA_FP8_WEIGHTS 2

/** options.flags: the same as 8-bit integers. On CUDA devices. */
#define LARDER_FLAG_CUDA_INT8_WEIGHTS 4

/** batch.wants: this row's logits. */
#define LARDER_WANT_LOGITS 1

/** batch.wants: this row's final hidden state. */
#define LARDER_WANT_HIDDEN 2

/** batch.pooling: hidden states come row by row. */
#define LARDER_POOL_NONE 0

/** batch.pooling: one hidden row per sequence of the batch, the mean of its rows that want one. */
#define LARDER_POOL_MEAN 1

/** batch.pooling: one hidden row per sequence of the batch, its last row that wants one. */
#define LARDER_POOL_LAST 2

/** event.token: there is none. */
#define LARDER_NO_TOKEN UINT32_MAX

/** An answer's next token and text. */
#define LARDER_EVENT_TOKEN 1

/** An answer has ended; finish tells why. */
#define LARDER_EVENT_FINISHED 2

/** A request has failed; status tells why, the others go on. */
#define LARDER_EVENT_FAILED 3

/** event.finish: a stop token or a stop text. */
#define LARDER_FINISH_STOP 1

/** event.finish: max_new_tokens, or the sequence is full. */
#define LARDER_FINISH_LENGTH 2

/** event.finish: larder_request_cancel. */
#define LARDER_FINISH_CANCELLED 3

/** event.finish: the constraint is fulfilled, and no text can follow. */
#define LARDER_FINISH_CONSTRAINT 4

/** larder_engine_wait: as long as it takes. */
#define LARDER_WAIT_FOREVER UINT32_MAX

/** tokenize: add what the model wants around a text (BOS, EOS). */
#define LARDER_TEXT_ADD_SPECIAL 1

/** tokenize: control tokens written out in the text become those tokens; else they are plain text. */
#define LARDER_TEXT_PARSE_SPECIAL 2

/** detokenize: leave control tokens out. */
#define LARDER_TEXT_SKIP_SPECIAL 4

/** A tensor as dlpack.h declares it; include that to look inside. */
typedef struct DLManagedTensor DLManagedTensor;

/**
 * One model on one device, with its KV repo and its compute area. Made by larder_engine_create and destroyed by
 * larder_engine_release, together with its sequences and requests, whose handles are then meaningless; they hold
 * nothing of their own, so nothing is lost. A released engine's pointer must not be used again.
 * Each function says which calls may run at the same time on one engine. Two engines never disturb each other.
 */
typedef struct larder_engine larder_engine;

/** One of the tasks of hooks.parallel_for. */
typedef void (*larder_task)(void *context, uint32_t index);

/**
 * What the host may lend; every function may be NULL. All are called from the thread that called larder, but for
 * parallel_for's tasks. They must not raise exceptions, longjmp, or call this engine again.
 * Copied by create; user must stay valid until release has returned.
 */
typedef struct larder_hooks {
    /** Set by larder_hooks_init. */
    uint32_t struct_size;
    /** 0 nothing, 1 errors, 2 warnings, 3 information, 4 debugging. */
    uint32_t log_level;
    /** Comes back as the first argument of each function. */
    void *user;
    /** One line of text, without a line end; not NUL-terminated. */
    void (*log)(void *user, uint32_t level, const char *text, size_t length);
    /** While weights are read. Non-zero stops the load: LARDER_CANCELLED. */
    int32_t (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
    /** The few big blocks. block is a LARDER_BLOCK_ value; NULL: refused. Needs deallocate. */
    void *(*allocate)(void *user, uint32_t block, size_t bytes, size_t alignment);
    /** Takes back what allocate gave. */
    void (*deallocate)(void *user, uint32_t block, void *address, size_t bytes);
    /** Runs task(context, 0) .. task(context, n_tasks - 1), on any threads, and returns when all have returned. */
    void (*parallel_for)(void *user, uint32_t n_tasks, larder_task task, void *context);
    /** Tokens of a cached prefix have left the KV repo, during a call that needs their slots or asks for it. */
    void (*evicted)(void *user, uint64_t name_space, uint64_t n_tokens);
} larder_hooks;

/**
 * What an engine is to be. All zero, but for struct_size, is a good start: larder_options_init.
 * Read during plan and create only; the caller may free it afterwards.
 */
typedef struct larder_options {
    /** Set by larder_options_init. */
    uint32_t struct_size;
    /** LARDER_DEVICE_ */
    uint32_t device;
    /** Which of several GPUs. */
    uint32_t device_index;
    /** 0: one per physical core; 1: starts none; with hooks.parallel_for: starts none. */
    uint32_t n_threads;
    /** 0: none. Else create stays under it, all classes together, or fails with the numbers. */
    uint64_t memory_limit_bytes;
    /** Token slots; 0: what the limit leaves, without limit max_sequences * max_sequence_tokens. */
    uint64_t total_tokens;
    /** 0: the model's own limit as far as total_tokens allows; at most 4096 where nothing else is said. */
    uint32_t max_sequence_tokens;
    /** 0: 4. */
    uint32_t max_sequences;
    /** Requests that wait or run at one time. 0: 64. */
    uint32_t max_requests;
    /** Rows of one step: prefill chunks and decode rows together. 0: chosen with the area mode. */
    uint32_t max_batch_rows;
    /** Rows of logits that exist at one time. 0: 16. */
    uint32_t max_logits_rows;
    /** LARDER_KV_ */
    uint32_t k_type;
    /** LARDER_KV_ */
    uint32_t v_type;
    /** LARDER_AREA_ */
    uint32_t area_mode;
    /** LARDER_FLAG_ bits */
    uint32_t flags;
    /** NULL: the device's primary context. */
    void *cuda_context;
    /** NULL: a stream of our own. */
    void *cuda_stream;
    /** NULL: none. Copied. */
    const struct larder_hooks *hooks;
} larder_options;

/** Bytes by class, the same before (plan) and after (memory). Plain numbers: the caller's own. */
typedef struct larder_memory {
    /** Set by larder_memory_init. */
    uint32_t struct_size;
    /** What auto chose; larder_engine_describe tells why. */
    uint32_t area_mode;
    /** The model's weights, as the backend packs them. */
    uint64_t weights_bytes;
    /** K and V of total_tokens token slots and one more, all layers. */
    uint64_t kv_repo_bytes;
    /** Every activation. */
    uint64_t compute_area_bytes;
    /** Sequences, requests, tokenizer tables. */
    uint64_t bookkeeping_bytes;
    /** Of all classes, what lies in the host's memory. */
    uint64_t host_bytes;
    /** Of all classes, what lies in the device's memory. */
    uint64_t device_bytes;
    /** Highest use while create runs. */
    uint64_t load_peak_bytes;
    /** Token slots. */
    uint64_t total_tokens;
    /** One token, all layers. */
    uint64_t token_slot_bytes;
} larder_memory;

/** What a call returns: LARDER_OK or a negative code; larder_last_error has the reason in words. */
typedef int32_t larder_status;

/**
 * A sequence's handle; 0: none. Carries a generation: a stale handle is an error, never a fault. Ends with
 * larder_sequence_release or with its engine.
 */
typedef uint64_t larder_sequence;

/** The rows of one forward pass, of one or more sequences. The caller's own; read during the call only. */
typedef struct larder_batch {
    /** Set by larder_batch_init. */
    uint32_t struct_size;
    /** 1 to max_batch_rows. */
    uint32_t n_rows;
    /** [n_rows], or NULL where embeddings are given. */
    const uint32_t *tokens;
    /** [n_rows][hidden_size] in place of tokens, or NULL. */
    const float *embeddings;
    /** [n_rows]; the rows of one sequence in order, appended to it. */
    const larder_sequence *sequences;
    /** [n_rows] LARDER_WANT_ bits, or NULL: logits of each sequence's last row. */
    const uint8_t *wants;
    /** LARDER_POOL_ for the hidden states. */
    uint32_t pooling;
    /** Not 0: hidden states, pooled or not, are scaled to length 1. */
    uint32_t normalize;
} larder_batch;

/** What forward computed. The arrays are the engine's and valid until its next forward, step or release. */
typedef struct larder_output {
    /** Set by larder_output_init. */
    uint32_t struct_size;
    /** Rows of logits. */
    uint32_t n_logits_rows;
    /** Rows of hidden. */
    uint32_t n_hidden_rows;
    /** Columns of logits. */
    uint32_t vocabulary_size;
    /** Columns of hidden, and of batch.embeddings. */
    uint32_t hidden_size;
    /** [n_logits_rows][vocabulary_size], in the order of the batch; NULL when there are none. */
    const float *logits;
    /** [n_hidden_rows][hidden_size], in the order of the batch; NULL when there are none. */
    const float *hidden;
} larder_output;

/** Where forward left its rows. */
typedef struct larder_tensors {
    /** Set by larder_tensors_init. */
    uint32_t struct_size;
    /** Not 0: the tensors lie on a CUDA device, and event is set. */
    uint32_t is_device;
    /** float32 [n_logits_rows][vocabulary_size], or NULL when there are none. */
    struct DLManagedTensor *logits;
    /** float32 [n_hidden_rows][hidden_size], or NULL when there are none. */
    struct DLManagedTensor *hidden;
    /** A CUevent to wait for before the tensors are read (cuStreamWaitEvent); NULL: they are there. */
    void *event;
} larder_tensors;

/** How a request's tokens are chosen. All zero is greedy. */
typedef struct larder_sampling {
    /** Set by larder_sampling_init and larder_request_options_init. */
    uint32_t struct_size;
    /** 0, or more than the vocabulary: off. */
    uint32_t top_k;
    /** 0: greedy. */
    float temperature;
    /** 0 as default means 1: off. */
    float top_p;
    /** 0: off. */
    float min_p;
    /** 0 as default means 1: off. */
    float repetition_penalty;
    /** 0: off. */
    float presence_penalty;
    /** 0: off. */
    float frequency_penalty;
    /** Each answer has a generator of its own: the same seed, the same answer. Answer i has seed + i. */
    uint64_t seed;
    /** How many of the most likely tokens each event tells, at most 20. */
    uint32_t n_logprobs;
    /** Elements of bias_tokens and biases, at most 1024. */
    uint32_t n_biases;
    /** [n_biases] */
    const uint32_t *bias_tokens;
    /** [n_biases], added to the logits; minus infinity bans a token. */
    const float *biases;
} larder_sampling;

/** UTF-8 text; length 0 allows any data. */
typedef struct larder_text {
    const char *data;
    size_t length;
} larder_text;

/** What a request asks for. The caller's own: copied by submit. */
typedef struct larder_request_options {
    /** Set by larder_request_options_init. */
    uint32_t struct_size;
    /** Elements of prompt_tokens. */
    uint32_t n_prompt_tokens;
    /** [n_prompt_tokens], taken as they are; or NULL and prompt_text. */
    const uint32_t *prompt_tokens;
    /** Tokenised with what the model wants around a prompt; a BOS that is written out is not doubled. */
    struct larder_text prompt_text;
    /** 0: as many as fit. */
    uint32_t max_new_tokens;
    /** A hint for admission: how long an answer is likely to become; 0: from past answers. */
    uint32_t expected_new_tokens;
    /** 0: 1. They share the prompt's slots; those that do not fit beside each other follow one another. */
    uint32_t n_answers;
    /** Higher ones go first and are paused last. Inside one it is first come, first served. */
    int32_t priority;
    /** Prefixes are shared inside one only: give each adapter, tenant, … its own. */
    uint64_t name_space;
    /** Comes back in each event. */
    uint64_t user;
    /** [n_stops] texts that end an answer and are not part of it; each of 1 to 256 bytes. */
    const struct larder_text *stops;
    /** Elements of stops, at most 16. */
    uint32_t n_stops;
    /**
     * 0 none, 1 JSON schema, 2 regex, 3 Lark grammar (by llguidance, with its extensions). Each answer follows it from
     * its first byte to its last: only tokens that can still lead to its end are drawn, and a stop token exactly
     * where it is fulfilled. When it is, and no text can follow, the answer ends with LARDER_FINISH_CONSTRAINT.
     * LARDER_FINISH_LENGTH and stops may end it before. Log probabilities are those among what may be drawn.
     * Needs a tokenizer, else UNSUPPORTED. Submit and step allocate memory for such requests: at most 32 MiB for the
     * request and for each of its answers, given back when they end; see larder_stats.constraint_bytes.
     */
    uint32_t constraint_kind;
    /** The schema, expression or grammar: at most 128 KiB, and 4 KiB for one expression, string of a schema or line. */
    struct larder_text constraint;
    /** How tokens are chosen. Its struct_size may be 0 when all of it is. */
    struct larder_sampling sampling;
    /** For prompt_text: LARDER_TEXT_PARSE_SPECIAL, which a rendered chat needs, or 0. */
    uint32_t prompt_flags;
    /** 0 */
    uint32_t reserved;
} larder_request_options;

/** A request's handle; 0: none. Carries a generation. Ends with its FINISHED or FAILED events, or with its engine. */
typedef uint64_t larder_request;

/** One of the most likely tokens of a position. */
typedef struct larder_token_logprob {
    uint32_t token;
    float logprob;
} larder_token_logprob;

/**
 * What happened to a request. The array is the caller's own; text and top_logprobs are valid until the next step
 * or release.
 */
typedef struct larder_event {
    larder_request request;
    /** options.user of the request. */
    uint64_t user;
    /** LARDER_EVENT_ */
    uint32_t kind;
    /** 0 .. n_answers - 1 */
    uint32_t answer;
    /** LARDER_NO_TOKEN at the end of an answer, unless a stop token ended it. */
    uint32_t token;
    /** Natural logarithm of the token's probability before penalties and temperature. */
    float logprob;
    /** LARDER_FINISH_ */
    uint32_t finish;
    /**
     * Why a request failed: OUT_OF_SLOTS or LIMIT_REACHED (the host's own sequences or pinned namespaces hold what it
     * needs; or its constraint's parser has reached one of its bounds), BAD_MODEL (no finite logits, or every token
     * banned), UNSUPPORTED (no token of the vocabulary continues its constraint), DEVICE (the forward pass failed).
     */
    larder_status status;
    /** Whole UTF-8 characters; may be empty while one is incomplete or a stop is pending. */
    const char *text;
    size_t text_length;
    uint32_t n_prompt_tokens;
    /** Of n_prompt_tokens, those that this answer did not compute: the prefix cache had them. */
    uint32_t n_cached_tokens;
    /** [n_top_logprobs], most likely first. */
    const struct larder_token_logprob *top_logprobs;
    uint32_t n_top_logprobs;
    /** 0 */
    uint32_t reserved;
} larder_event;

/**
 * Numbers as of the end of the last step. Gauges unless said otherwise; counters count since create, times are in
 * nanoseconds. Plain numbers: the caller's own.
 */
typedef struct larder_stats {
    /** Set by larder_stats_init. */
    uint32_t struct_size;
    /** 0 */
    uint32_t reserved;
    /** Token slots of the KV repo. */
    uint64_t total_slots;
    /** Token slots that sequences read or pinned namespaces keep. */
    uint64_t used_slots;
    /** Token slots that can be taken, by eviction if need be. */
    uint64_t free_slots;
    /** Token slots that the prefix cache holds, read or not. */
    uint64_t tree_slots;
    /** Token slots saved by sequences that read the same ones. */
    uint64_t shared_slots;
    /** Requests that are not admitted yet. */
    uint64_t requests_waiting;
    /** Requests that are admitted and have not ended. */
    uint64_t requests_running;
    /** Answers that are computed. */
    uint64_t answers_running;
    /** Answers that were paused for lack of slots. */
    uint64_t answers_paused;
    /** Counter: requests whose answers are complete. */
    uint64_t requests_finished;
    /** Counter: requests that were cancelled. */
    uint64_t requests_cancelled;
    /** Counter: requests with an answer that failed. */
    uint64_t requests_failed;
    /** Counter: prompt tokens of admitted answers. */
    uint64_t prompt_tokens;
    /** Counter: those of them that the prefix cache had. */
    uint64_t cached_tokens;
    /** Counter: tokens drawn. */
    uint64_t generated_tokens;
    /** Counter: answers paused. */
    uint64_t pauses;
    /** Counter: token slots taken back from the prefix cache. */
    uint64_t evicted_slots;
    /** Counter: steps with at least one row. */
    uint64_t steps;
    /** Counter: rows of answers that lacked one token. */
    uint64_t decode_rows;
    /** Counter: rows of prompts and of resumed answers. */
    uint64_t prefill_rows;
    /** Rows of the last step. */
    uint64_t last_step_rows;
    /** Counter: time spent on scheduling. */
    uint64_t schedule_nanoseconds;
    /** Counter: time spent in layers. */
    uint64_t forward_nanoseconds;
    /** Counter: time spent on logits and on drawing tokens. */
    uint64_t sample_nanoseconds;
    /**
     * Bytes that compiled constraints and their parsers take, an estimate; those of requests that no step has seen yet
     * are not in it.
     */
    uint64_t constraint_bytes;
} larder_stats;

/** What the prefix cache does for one namespace. The caller's own: copied. */
typedef struct larder_name_space_options {
    /** Set by larder_name_space_options_init. */
    uint32_t struct_size;
    /** 1: its prefixes are never evicted, and so do not count as free; else 0. */
    uint32_t is_pinned;
    /** Token slots that are kept for it while no sequence reads them; 0: no limit of its own. */
    uint32_t max_idle_tokens;
    /** 1: nothing is kept for it. Its requests still share what runs at the same time. */
    uint32_t keeps_nothing;
} larder_name_space_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/** The library's version, as "major.minor.patch"; static, NUL-terminated. Any thread. */
const char *larder_version(void);

/** The library's LARDER_ABI_VERSION: a program works with a library whose number equals its header's. Any thread. */
uint32_t larder_abi_version(void);

/** Sets every field to its default. hooks: not NULL. Any thread. */
void larder_hooks_init(struct larder_hooks *hooks);

/** Sets every field to its default. options: not NULL. Any thread. */
void larder_options_init(struct larder_options *options);

/** Sets every field to 0, and struct_size. memory: not NULL. Any thread. */
void larder_memory_init(struct larder_memory *memory);

/**
 * Tells what larder_engine_create would take. Reads headers only, allocates no weights, needs no device.
 *
 * model_path: not NULL; a .gguf file (of a split model the first), or a folder with config.json and safetensors.
 * options: NULL = defaults. memory: not NULL, set up by larder_memory_init.
 * Errors: INVALID_ARGUMENT, IO, BAD_MODEL, UNSUPPORTED, OUT_OF_MEMORY (memory_limit_bytes is too low).
 * Any thread.
 */
larder_status larder_engine_plan(const char *model_path,
                                 const struct larder_options *options,
                                 struct larder_memory *memory);

/**
 * Loads a model and reserves everything: weights, KV repo, compute area, bookkeeping, threads. Nothing is
 * allocated afterwards, but for what the text calls return.
 *
 * model_path, options: as for plan. engine: not NULL; written on success only, release it with
 * larder_engine_release. On any error everything taken so far has been given back.
 * Errors: as for plan, and CANCELLED (hooks.progress), DEVICE.
 * Any thread. options.hooks are called from this thread.
 */
larder_status larder_engine_create(const char *model_path,
                                   const struct larder_options *options,
                                   struct larder_engine **engine);

/**
 * Stops the engine's threads and gives everything back; sequences and requests end with it. Works on a failed
 * engine too.
 *
 * engine: NULL is fine. No other call on it may be running; where one is seen: BUSY, and nothing is released.
 * Errors: BUSY, INVALID_ARGUMENT.
 */
larder_status larder_engine_release(struct larder_engine *engine);

/**
 * The bytes in use, equal to what plan told for the same options.
 *
 * engine: not NULL. memory: not NULL, set up by larder_memory_init.
 * Errors: INVALID_ARGUMENT, ENGINE_FAILED. Any thread, at any time.
 */
larder_status larder_engine_memory(const struct larder_engine *engine, struct larder_memory *memory);

/**
 * A few lines of text for people: model, sizes, the compute area's mode and why it was chosen, attention windows.
 *
 * engine, needed: not NULL. text: [capacity], not NULL unless capacity is 0; no NUL is added. needed gets the
 * length in bytes also when the buffer is too small.
 * Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL, ENGINE_FAILED. Any thread, at any time.
 */
larder_status larder_engine_describe(const struct larder_engine *engine,
                                     char *text,
                                     size_t capacity,
                                     size_t *needed);

/**
 * Opens an empty sequence. It takes token slots only as it grows.
 *
 * engine: not NULL. sequence: not NULL, written on success only.
 * Errors: INVALID_ARGUMENT, LIMIT_REACHED (max_sequences), BUSY, ENGINE_FAILED.
 * Any thread; BUSY while another call runs on the engine.
 */
larder_status larder_sequence_open(struct larder_engine *engine, larder_sequence *sequence);

/**
 * Opens a sequence that shares the first n_tokens of parent; no K or V is copied. Both go on independently and
 * may be released in any order.
 *
 * engine: not NULL. n_tokens: at most the parent's length. child: not NULL, written on success only.
 * Errors: INVALID_ARGUMENT, STALE_HANDLE, LIMIT_REACHED (max_sequences), BUSY, ENGINE_FAILED.
 * Any thread; BUSY while another call runs on the engine.
 */
larder_status larder_sequence_fork(struct larder_engine *engine,
                                   larder_sequence parent,
                                   uint64_t n_tokens,
                                   larder_sequence *child);

/**
 * Forgets all but the first n_tokens, whose slots are free again unless a fork shares them.
 *
 * engine: not NULL. n_tokens: at most the sequence's length.
 * Errors: INVALID_ARGUMENT, STALE_HANDLE, BUSY, ENGINE_FAILED.
 * Any thread; BUSY while another call runs on the engine.
 */
larder_status larder_sequence_truncate(struct larder_engine *engine,
                                       larder_sequence sequence,
                                       uint64_t n_tokens);

/**
 * How many tokens a sequence has.
 *
 * engine: not NULL. n_tokens: not NULL, written on success only.
 * Errors: INVALID_ARGUMENT, STALE_HANDLE, BUSY, ENGINE_FAILED.
 * Any thread; BUSY while another call runs on the engine.
 */
larder_status larder_sequence_length(const struct larder_engine *engine,
                                     larder_sequence sequence,
                                     uint64_t *n_tokens);

/**
 * Ends a sequence; slots that no fork shares are free at once.
 *
 * engine: not NULL. Errors: INVALID_ARGUMENT, STALE_HANDLE (released before), BUSY, ENGINE_FAILED.
 * Any thread; BUSY while another call runs on the engine.
 */
larder_status larder_sequence_release(struct larder_engine *engine, larder_sequence sequence);

/** Sets every field to its default. batch: not NULL. Any thread. */
void larder_batch_init(struct larder_batch *batch);

/** Sets every field to 0, and struct_size. output: not NULL. Any thread. */
void larder_output_init(struct larder_output *output);

/**
 * One forward pass over the rows of batch, each appended to its sequence. All or nothing: on any error but
 * ENGINE_FAILED and INTERNAL the sequences are as they were.
 *
 * engine, batch: not NULL. output: not NULL, set up by larder_output_init, written on success only.
 * Errors: INVALID_ARGUMENT (the message names row and field), STALE_HANDLE, OUT_OF_SLOTS, LIMIT_REACHED
 * (max_batch_rows, max_logits_rows, max_sequence_tokens), BUSY, DEVICE, ENGINE_FAILED.
 * One caller at a time, from any thread; a second one gets BUSY.
 */
larder_status larder_engine_forward(struct larder_engine *engine,
                                    const struct larder_batch *batch,
                                    struct larder_output *output);

/** Sets every field to 0, and struct_size. tensors: not NULL. Any thread. */
void larder_tensors_init(struct larder_tensors *tensors);

/**
 * As larder_engine_forward, but the rows stay where they were computed: nothing is copied to the host, and on a
 * device nothing is waited for. The tensors and the event are the engine's and valid until its next forward, step or
 * release; a tensor's deleter may be called and does nothing. batch.pooling must be LARDER_POOL_NONE and normalize 0;
 * where hidden states are wanted, they must be of all rows that want anything.
 *
 * engine, batch: not NULL. tensors: not NULL, set up by larder_tensors_init, written on success only.
 * Errors: as larder_engine_forward.
 * One caller at a time, from any thread; a second one gets BUSY.
 */
larder_status larder_engine_forward_tensors(struct larder_engine *engine,
                                            const struct larder_batch *batch,
                                            struct larder_tensors *tensors);

/** Sets every field to its default. sampling: not NULL. Any thread. */
void larder_sampling_init(struct larder_sampling *sampling);

/** Sets every field to its default, those of sampling too. options: not NULL. Any thread. */
void larder_request_options_init(struct larder_request_options *options);

/**
 * Queues a request. It runs in the steps that follow.
 *
 * engine, options: not NULL. request: not NULL, written on success only.
 * Errors: INVALID_ARGUMENT (the message names the field; also for a request that could never fit), LIMIT_REACHED
 * (max_requests: try again when one has ended), UNSUPPORTED, ENGINE_FAILED. A constraint is compiled here; a mistake
 * in it is an INVALID_ARGUMENT with the reason.
 * Any thread, also while a step runs.
 */
larder_status larder_request_submit(struct larder_engine *engine,
                                    const struct larder_request_options *options,
                                    larder_request *request);

/**
 * Ends a request: its answers finish with LARDER_FINISH_CANCELLED in the step that runs, or else the next one, and
 * draw no further token. A step whose requests are all cancelled stops within a layer. In any state, any number of
 * times: one that has ended already stays as it is, until its place is another request's.
 *
 * engine: not NULL. Errors: INVALID_ARGUMENT, STALE_HANDLE, ENGINE_FAILED.
 * Any thread, also while a step runs.
 */
larder_status larder_request_cancel(struct larder_engine *engine,
                                    larder_request request);

/**
 * One forward pass over what is admitted, prompts in chunks and decode rows together. 0 events: nothing is left to
 * do, or prompts are still being read.
 *
 * engine: not NULL. events: [capacity], not NULL; capacity: at least 1. n_events: not NULL; *n_events <= capacity,
 * what did not fit comes next time.
 * Errors: INVALID_ARGUMENT, BUSY, DEVICE, ENGINE_FAILED. What fails for one request is an event, not an error.
 * One caller at a time, from any thread; a second one gets BUSY.
 */
larder_status larder_engine_step(struct larder_engine *engine,
                                 struct larder_event *events,
                                 size_t capacity,
                                 size_t *n_events);

/**
 * Sleeps until a step would have something to do or to tell, or until the time is over.
 *
 * engine: not NULL. timeout_ms: 0 only looks; LARDER_WAIT_FOREVER. has_work: not NULL; 1 when there is work, else 0.
 * Errors: INVALID_ARGUMENT, ENGINE_FAILED. Any thread, also while a step runs; not while release does.
 */
larder_status larder_engine_wait(struct larder_engine *engine,
                                 uint32_t timeout_ms,
                                 uint32_t *has_work);

/**
 * An eventfd for the host's own poll, epoll or io_uring: readable once a request was submitted or cancelled since the
 * last step began. The host that sees it readable steps until larder_engine_wait(engine, 0, ..) finds no more work.
 * It only watches: it does not read the file, and does not close it; release does. The first call makes it.
 *
 * engine: not NULL. fd: not NULL, written on success only.
 * Errors: INVALID_ARGUMENT, IO, UNSUPPORTED (not on this system), ENGINE_FAILED. Any thread.
 */
larder_status larder_engine_event_fd(struct larder_engine *engine,
                                     int32_t *fd);

/** Sets every field to 0, and struct_size. stats: not NULL. Any thread. */
void larder_stats_init(struct larder_stats *stats);

/**
 * What the engine has done and holds, as of the end of the last step. Waits for nothing.
 *
 * engine: not NULL. stats: not NULL, set up by larder_stats_init.
 * Errors: INVALID_ARGUMENT, ENGINE_FAILED. Any thread, at any time.
 */
larder_status larder_engine_stats(const struct larder_engine *engine, struct larder_stats *stats);

/**
 * Writes statistics in Prometheus' text format (version 0.0.4).
 *
 * stats: not NULL. prefix: [prefix_length], begins every metric's name, as in "larder_". text: [capacity], not
 * NULL unless capacity is 0; no NUL is added. needed: not NULL, gets the length in bytes also when the buffer is too
 * small.
 * Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL. Any thread.
 */
larder_status larder_stats_prometheus(const struct larder_stats *stats,
                                      const char *prefix,
                                      size_t prefix_length,
                                      char *text,
                                      size_t capacity,
                                      size_t *needed);

/** Sets every field to its default. options: not NULL. Any thread. */
void larder_name_space_options_init(struct larder_name_space_options *options);

/**
 * Sets what the prefix cache does for a namespace from now on. Every namespace begins with the defaults.
 *
 * engine: not NULL. name_space: as in requests. options: NULL = defaults.
 * Errors: INVALID_ARGUMENT, LIMIT_REACHED (1024 namespaces have settings or cached tokens), BUSY, ENGINE_FAILED.
 * Any thread; BUSY while another call runs on the engine.
 */
larder_status larder_name_space_set(struct larder_engine *engine,
                                    uint64_t name_space,
                                    const struct larder_name_space_options *options);

/**
 * Evicts every cached prefix that no sequence reads and no namespace has pinned.
 *
 * engine: not NULL. Errors: INVALID_ARGUMENT, BUSY, ENGINE_FAILED.
 * Any thread; BUSY while another call runs on the engine.
 */
larder_status larder_cache_flush(struct larder_engine *engine);

/**
 * Text to tokens. Both flags together are for a rendered chat: there is exactly one BOS, whether or not the
 * template writes it, no EOS, and control tokens that stand inside messages stay plain text.
 *
 * engine, needed: not NULL. text: UTF-8. flags: LARDER_TEXT_ADD_SPECIAL, LARDER_TEXT_PARSE_SPECIAL.
 * tokens: [capacity], not NULL unless capacity is 0. needed gets the number of tokens also when the array is too
 * small.
 * Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL, UNSUPPORTED (no tokenizer in the model), ENGINE_FAILED.
 * Any thread, at any time.
 */
larder_status larder_text_tokenize(const struct larder_engine *engine,
                                   const char *text,
                                   size_t length,
                                   uint32_t flags,
                                   uint32_t *tokens,
                                   size_t capacity,
                                   size_t *needed);

/**
 * Tokens to text: whatever bytes they stand for, which need not be whole UTF-8 characters.
 *
 * engine, needed: not NULL. tokens: [n_tokens]. flags: LARDER_TEXT_SKIP_SPECIAL.
 * text: [capacity], not NULL unless capacity is 0; no NUL is added. needed gets the length in bytes also when the
 * buffer is too small.
 * Errors: INVALID_ARGUMENT (a token outside the vocabulary), BUFFER_TOO_SMALL, UNSUPPORTED, ENGINE_FAILED.
 * Any thread, at any time.
 */
larder_status larder_text_detokenize(const struct larder_engine *engine,
                                     const uint32_t *tokens,
                                     size_t n_tokens,
                                     uint32_t flags,
                                     char *text,
                                     size_t capacity,
                                     size_t *needed);

/**
 * A chat to the text that the model was trained on, by the model's own template. For larder_text_tokenize with
 * both flags, or for a request's prompt_text with LARDER_TEXT_PARSE_SPECIAL, which know the mark (U+FDD0) that is
 * put into control tokens inside messages.
 *
 * engine, needed: not NULL. messages_json: UTF-8; what OpenAI's chat API calls messages (and tools, and template
 * variables such as add_generation_prompt), as one JSON object; or messages alone, as an array.
 * text: [capacity], not NULL unless capacity is 0; no NUL is added. needed gets the length in bytes also when the
 * buffer is too small.
 * Errors: INVALID_ARGUMENT (JSON, or the template refuses the chat), BUFFER_TOO_SMALL, UNSUPPORTED (no template),
 * ENGINE_FAILED. Any thread, at any time.
 */
larder_status larder_text_render_chat(const struct larder_engine *engine,
                                      const char *messages_json,
                                      size_t length,
                                      char *text,
                                      size_t capacity,
                                      size_t *needed);

/**
 * This thread's last failure in words; empty when there was none. Never NULL, NUL-terminated UTF-8 of at most 511
 * bytes; valid until this thread ends, its text until this thread's next failing call. Any thread.
 */
const char *larder_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LARDER_H */
