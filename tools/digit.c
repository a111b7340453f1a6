/* The model contract in C: reads 784 bytes (28 rows of 28 pixels, 0 = background, 255 = ink), prints the digit.
 *
 *   cc digit.c -I INCLUDE -o digit LIBRARY          INCLUDE: the folder of onnxruntime_c_api.h
 *   ./digit model.onnx < pixels.raw                 LIBRARY: libonnxruntime.so, .dylib or .dll
 */
#include <stdio.h>
#include <stdlib.h>

#include "onnxruntime_c_api.h"

enum { ROWS = 28, COLS = 28, CLASSES = 10 };

static const OrtApi *ort;

static void check(OrtStatus *status) {
    if (status == NULL) return;
    fprintf(stderr, "onnxruntime: %s\n", ort->GetErrorMessage(status));
    exit(1);
}

int main(int argc, char **argv) {
    unsigned char pixels[ROWS * COLS];
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.onnx < PIXELS\n", argv[0]);
        return 2;
    }
    if (fread(pixels, 1, sizeof pixels, stdin) != sizeof pixels || getchar() != EOF) {
        fprintf(stderr, "expected exactly %d bytes on stdin\n", ROWS * COLS);
        return 1;
    }
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (ort == NULL) {
        fprintf(stderr, "this libonnxruntime is older than its header\n");
        return 1;
    }
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "digit", &env));
    check(ort->CreateSessionOptions(&options));
    check(ort->SetIntraOpNumThreads(options, 1)); /* one picture at a time: a second thread costs more than it saves */
    check(ort->CreateSession(env, argv[1], options, &session));

    OrtMemoryInfo *memory;
    OrtValue *input, *output = NULL;
    const int64_t shape[] = {1, ROWS, COLS}; /* (batch, rows, cols); scaling is inside the model */
    const char *input_names[] = {"pixels"}, *output_names[] = {"logits"};
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, pixels, sizeof pixels, shape, 3,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
    check(ort->Run(session, NULL, input_names, (const OrtValue *const *)&input, 1, output_names, 1, &output));

    float *logits;
    int digit = 0;
    check(ort->GetTensorMutableData(output, (void **)&logits));
    for (int i = 1; i < CLASSES; i++)
        if (logits[i] > logits[digit]) digit = i;
    printf("%d\n", digit);
    return 0;
}
