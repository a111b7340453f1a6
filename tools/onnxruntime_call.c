/* onnxruntime through its C API, for tools/in_c.py: a session is opened once, and a call costs what it costs in C.
 *
 * Both functions give NULL, or what went wrong. The library is the one that Python has: OrtGetApiBase comes from there.
 */
#include <stddef.h>
#include <stdint.h>

#include "onnxruntime_c_api.h"

static const OrtApi *ort;
static OrtMemoryInfo *memory;

#define CHECK(call)                                                  \
    do {                                                             \
        OrtStatus *status = (call);                                  \
        if (status != NULL) return ort->GetErrorMessage(status);     \
    } while (0)

const char *open_model(const OrtApiBase *base, const void *model, size_t n_bytes, int threads, OrtSession **session) {
    OrtEnv *env;
    OrtSessionOptions *options;
    ort = base->GetApi(ORT_API_VERSION);
    if (ort == NULL) return "this libonnxruntime is older than its header";
    CHECK(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "bench", &env));
    CHECK(ort->CreateSessionOptions(&options));
    CHECK(ort->SetIntraOpNumThreads(options, threads));
    CHECK(ort->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
    CHECK(ort->CreateSessionFromArray(env, model, n_bytes, options, session));
    CHECK(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    return NULL;
}

/* What a program does that gets a picture and wants its logits: both stay in its own memory. */
const char *run(OrtSession *session, const int64_t *shape, int64_t n_classes, void *pixels, float *logits) {
    const char *names[] = {"pixels"}, *result_names[] = {"logits"};
    const int64_t result_shape[] = {shape[0], n_classes};
    OrtValue *input, *output;
    CHECK(ort->CreateTensorWithDataAsOrtValue(memory, pixels, (size_t)(shape[0] * shape[1] * shape[2]), shape, 3,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
    CHECK(ort->CreateTensorWithDataAsOrtValue(memory, logits, (size_t)(shape[0] * n_classes) * sizeof *logits,
                                              result_shape, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &output));
    CHECK(ort->Run(session, NULL, names, (const OrtValue *const *)&input, 1, result_names, 1, &output));
    ort->ReleaseValue(input);
    ort->ReleaseValue(output);
    return NULL;
}
