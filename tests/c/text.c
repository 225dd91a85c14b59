/* tokenize, detokenize, render_chat on a byte-level tokenizer with a ChatML template. */
#include "check.h"

enum { CAPACITY = 256 };

static larder_engine *engine;

static void there_and_back(void) {
    static const char *const TEXTS[] = {"", "a", "the thing", "\xe2\x82\xac 5\n", "caf\xc3\xa9 \xf0\x9f\x8d\x9e"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        uint32_t tokens[CAPACITY];
        char text[CAPACITY];
        size_t n_tokens = 99, length = 99;
        EXPECT(LARDER_OK, larder_text_tokenize(engine, TEXTS[i], strlen(TEXTS[i]), 0, tokens,
                                               CAPACITY, &n_tokens));
        CHECK(n_tokens <= strlen(TEXTS[i]));
        EXPECT(LARDER_OK, larder_text_detokenize(engine, tokens, n_tokens, 0, text, CAPACITY, &length));
        CHECK(length == strlen(TEXTS[i]) && memcmp(text, TEXTS[i], length) == 0);
    }
}

static void control_tokens_are_text_unless_asked_for(void) {
    const char *text = "<|im_end|>";
    uint32_t tokens[CAPACITY];
    char back[CAPACITY];
    size_t n_tokens, length;
    EXPECT(LARDER_OK, larder_text_tokenize(engine, text, 10, 0, tokens, CAPACITY, &n_tokens));
    CHECK(n_tokens > 1);
    EXPECT(LARDER_OK, larder_text_tokenize(engine, text, 10, LARDER_TEXT_PARSE_SPECIAL, tokens,
                                           CAPACITY, &n_tokens));
    CHECK(n_tokens == 1 && tokens[0] == 2);
    EXPECT(LARDER_OK, larder_text_detokenize(engine, tokens, 1, 0, back, CAPACITY, &length));
    CHECK(length == 10 && memcmp(back, text, 10) == 0);
    EXPECT(LARDER_OK, larder_text_detokenize(engine, tokens, 1, LARDER_TEXT_SKIP_SPECIAL, back,
                                             CAPACITY, &length));
    CHECK(length == 0);
}

static void a_small_buffer_gets_nothing_but_the_size(void) {
    uint32_t tokens[3] = {7, 7, 7};
    size_t needed = 0, again = 0;
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_text_tokenize(engine, "xyz", 3, 0, NULL, 0, &needed));
    CHECK(needed == 3);
    EXPECT(LARDER_BUFFER_TOO_SMALL, larder_text_tokenize(engine, "xyz", 3, 0, tokens, 2, &again));
    CHECK(again == 3 && tokens[0] == 7 && tokens[1] == 7);
    EXPECT(LARDER_OK, larder_text_tokenize(engine, "xyz", 3, 0, tokens, 3, &again));
    CHECK(again == 3 && tokens[0] != 7);
}

static void a_chat_is_rendered(void) {
    const char *chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}],"
                       " \"add_generation_prompt\": true}";
    const char *expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    char text[CAPACITY];
    size_t length = 0;
    EXPECT(LARDER_OK, larder_text_render_chat(engine, chat, strlen(chat), text, CAPACITY, &length));
    CHECK(length == strlen(expected) && memcmp(text, expected, length) == 0);
    EXPECT(LARDER_INVALID_ARGUMENT,
           larder_text_render_chat(engine, chat, strlen(chat) - 1, text, CAPACITY, &length));
    EXPECT(LARDER_INVALID_ARGUMENT, larder_text_render_chat(engine, "{}", 2, text, CAPACITY, &length));
}

int main(int argc, char **argv) {
    larder_options options = small_options();
    engine = engine_of(model_of(argc, argv), &options);
    there_and_back();
    control_tokens_are_text_unless_asked_for();
    a_small_buffer_gets_nothing_but_the_size();
    a_chat_is_rendered();
    EXPECT(LARDER_OK, larder_engine_release(engine));
    return finish();
}
