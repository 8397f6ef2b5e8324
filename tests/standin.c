/* A driver without a GPU: device memory is the host's, a launch goes to the test, or nowhere. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef void (*Launch)(void *function, unsigned grid, unsigned block, unsigned shared, uint64_t stream, void *parameters, uint64_t size);

static Launch on_launch = 0;
static int fail_code = 0, devices = 2, version = 13000;
static const char *fail_at = "";
static uint64_t current = 0;
static long live = 0, launches = 0, loads = 0;

#define FAIL(name) if (fail_code && !strcmp(fail_at, name)) return fail_code
#define GET(p, type) *(type *)(p)

void standin_on_launch(Launch launch) { on_launch = launch; }
void standin_fail(const char *at, int code) { fail_at = at; fail_code = code; }
long standin_live(void) { return live; }
long standin_launches(void) { return launches; }
long standin_loads(void) { return loads; }
uint64_t standin_current(void) { return current; }

Result cuInit(unsigned flags) { FAIL("cuInit"); return 0; }
Result cuDriverGetVersion(int *v) { *v = version; return 0; }
Result cuDeviceGetCount(int *n) { *n = devices; return 0; }
Result cuDeviceGet(int *d, int i) { if (i >= devices) return 101; *d = i; return 0; }
Result cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : 0; return 0; }
Result cuDevicePrimaryCtxRetain(uint64_t *c, int d) { *c = 0xC0 + d; return 0; }
Result cuCtxGetCurrent(uint64_t *c) { *c = current; return 0; }
Result cuCtxPushCurrent_v2(uint64_t c) { current = c; return 0; }
Result cuCtxPopCurrent_v2(uint64_t *c) { *c = current; current = 0; return 0; }
Result cuModuleLoadData(void **m, const char *code) { FAIL("cuModuleLoadData"); loads++; *m = strdup(code); return 0; }
Result cuModuleGetFunction(void **f, void *m, const char *name) { *f = m; return 0; }
Result cuMemAlloc_v2(uint64_t *p, size_t n) {
  FAIL("cuMemAlloc");
  void *memory = 0;
  if (posix_memalign(&memory, 512, n)) return 2;
  memset(memory, 0x5A, n);
  live++;
  *p = (uint64_t)memory;
  return 0;
}
Result cuMemFree_v2(uint64_t p) { live--; free((void *)p); return 0; }
Result cuMemcpyHtoD_v2(uint64_t d, const void *s, size_t n) { memcpy((void *)d, s, n); return 0; }
Result cuMemcpyDtoH_v2(void *d, uint64_t s, size_t n) { memcpy(d, (void *)s, n); return 0; }
Result cuStreamSynchronize(uint64_t s) { FAIL("cuStreamSynchronize"); return 0; }
Result cuMemsetD8Async(uint64_t p, unsigned char v, size_t n, uint64_t s) { memset((void *)p, v, n); return 0; }
Result cuPointerGetAttribute(int *v, int a, uint64_t p) { FAIL("cuPointerGetAttribute"); *v = 0; return 0; }
Result cuGetErrorName(int e, const char **s) { *s = e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_SOMETHING"; return 0; }
Result cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, uint64_t stream, void **parameters, void **extra) {
  FAIL("cuLaunchKernel");
  if (parameters || !extra || (uint64_t)extra[0] != 1 || (uint64_t)extra[2] != 2 || extra[4] || gy != 1 || gz != 1 || by != 1 || bz != 1) return 1;
  launches++;
  if (on_launch) on_launch(f, gx, bx, shared, stream, extra[1], *(uint64_t *)extra[3]);
  return 0;
}
