// Answers one question: plan, load, render the chat, stream the answer.
//
//     generate MODEL "Why is the sky blue?"
#include <larder.hpp>

#include <iostream>
#include <string>
#include <string_view>

namespace {

/// A user's message as a chat for render_chat.
std::string chat_of(std::string_view question) {
    std::string json = R"({"messages":[{"role":"user","content":")";
    for (const char c : question) {
        if (c == '"' || c == '\\') json += '\\';
        json += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return json + R"("}],"add_generation_prompt":true})";
}

int fail(const larder::error& error) {
    std::cerr << error.what() << '\n';
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::cerr << "usage: " << argv[0] << " MODEL QUESTION\n";
        return 2;
    }
    const larder::options options{.max_sequence_tokens = 512, .max_sequences = 1};
    const auto plan = larder::engine::plan(argv[1], options);
    if (!plan) return fail(plan.error());
    std::cout << "plan: " << plan->device_bytes + plan->host_bytes << " bytes for "
              << plan->total_tokens << " tokens\n\n";

    auto engine = larder::engine::create(argv[1], options);
    if (!engine) return fail(engine.error());
    const auto prompt = engine->render_chat(chat_of(argv[2]));
    if (!prompt) return fail(prompt.error());
    const auto request =
        engine->submit({.prompt_text = *prompt,
                        .parse_special = true,
                        .max_new_tokens = 160,
                        .sampling = {.temperature = 0.7f, .top_p = 0.9f, .seed = 1}});
    if (!request) return fail(request.error());

    unsigned n_tokens = 0;
    for (const auto& event : engine->events(*request)) {
        if (!event) return fail(event.error());
        if (event->kind == larder::event_kind::failed) return 1;
        n_tokens += event->kind == larder::event_kind::token;
        std::cout << event->text << std::flush;
    }
    std::cout << "\n\n" << n_tokens << " answer tokens\n";
    return 0;
}
