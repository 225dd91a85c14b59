// Package direct calls the C library without the binding, as its header's first page does. The binding's tests compare
// with it.
package direct

/*
#include <stdlib.h>
#include <larder.h>

// The greedy answer to one prompt, alone on an engine of its own. Returns a status.
static larder_status answer(const char *model, const uint32_t *prompt, uint32_t n_prompt, uint32_t max_new_tokens,
                            uint32_t *tokens, uint32_t *n_tokens, char *text, size_t *text_length) {
    larder_engine *engine = NULL;
    larder_request_options options;
    larder_request request;
    larder_request_options_init(&options);
    options.prompt_tokens = prompt;
    options.n_prompt_tokens = n_prompt;
    options.max_new_tokens = max_new_tokens;
    larder_status status = larder_engine_create(model, NULL, &engine);
    if (status == LARDER_OK) status = larder_request_submit(engine, &options, &request);
    int is_over = 0;
    *n_tokens = 0;
    *text_length = 0;
    while (status == LARDER_OK && !is_over) {
        larder_event event;
        size_t n_events = 0;
        status = larder_engine_step(engine, &event, 1, &n_events);
        if (status != LARDER_OK || n_events == 0) continue;
        for (size_t i = 0; i < event.text_length; i++) text[(*text_length)++] = event.text[i];
        if (event.kind == LARDER_EVENT_TOKEN) tokens[(*n_tokens)++] = event.token;
        else is_over = 1;
    }
    larder_engine_release(engine);
    return status;
}
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// roomPerToken is more than the text of any token of the tests' models.
const roomPerToken = 1024

// Answer is the greedy answer to one prompt, alone on an engine of its own, which has the default options.
func Answer(model string, prompt []uint32, maxNewTokens int) (tokens []uint32, text string, err error) {
	path := C.CString(model)
	defer C.free(unsafe.Pointer(path))
	tokens = make([]uint32, maxNewTokens)
	buffer := make([]byte, (maxNewTokens+1)*roomPerToken)
	var nTokens C.uint32_t
	var length C.size_t
	status := C.answer(path, (*C.uint32_t)(unsafe.SliceData(prompt)), C.uint32_t(len(prompt)),
		C.uint32_t(maxNewTokens), (*C.uint32_t)(unsafe.SliceData(tokens)), &nTokens,
		(*C.char)(unsafe.Pointer(unsafe.SliceData(buffer))), &length)
	if status != C.LARDER_OK {
		return nil, "", fmt.Errorf("status %d", int(status))
	}
	return tokens[:nTokens], string(buffer[:length]), nil
}
