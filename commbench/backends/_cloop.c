/* The inner timing loop for MPI, without Python and without an MPI at build time.
 *
 * Every blocking MPI collective takes only pointers, ints and handles: integer-class arguments. Handles are
 * pointers in Open MPI and 32-bit ints in MPICH; in the System V (x86-64) and AAPCS64 (Linux arm64) calling
 * conventions both travel as one 64-bit word, of which the callee reads what it needs, and arguments beyond
 * those it declares are ignored. So one function type serves both libraries, and the address of the call is
 * found at run time (see mpi.py). On other platforms the module is not built and the Python loop serves.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <time.h>

#if !(defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__)))
#error "calling convention not known to pass MPI handles of both kinds as one word"
#endif

#define MAXARGS 12
typedef intptr_t W;
typedef int (*Call)(W, W, W, W, W, W, W, W, W, W, W, W);

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int words(PyObject *tuple, W *out)
{
    Py_ssize_t n = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : -1;
    if (n < 0 || n > MAXARGS) {
        PyErr_Format(PyExc_ValueError, "a call takes a tuple of at most %d integers", MAXARGS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < MAXARGS; i++) {
        out[i] = 0;
        if (i < n) {
            /* The mask keeps the bits: -1 (MPICH's in-place address) and addresses above 2**63 both fit. */
            out[i] = (W)PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(tuple, i));
            if (PyErr_Occurred())
                return -1;
        }
    }
    return 0;
}

#define CALL(f, a) f(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11])

PyDoc_STRVAR(run_doc,
"run(call, args, sync, sync_args, out, calls)\n\n"
"For every element of `out` (a writable buffer of doubles): synchronise, then make `calls` calls back to\n"
"back; stores seconds per call. `call` and `sync` are addresses. Raises RuntimeError on an MPI error code.");

static PyObject *run(PyObject *self, PyObject *args)
{
    unsigned long long call_address, sync_address;
    PyObject *call_args, *sync_args;
    Py_buffer out;
    Py_ssize_t calls;
    W a[MAXARGS], s[MAXARGS];
    int rc = 0;

    if (!PyArg_ParseTuple(args, "KOKOw*n", &call_address, &call_args, &sync_address, &sync_args, &out, &calls))
        return NULL;
    if (words(call_args, a) || words(sync_args, s)) {
        PyBuffer_Release(&out);
        return NULL;
    }
    Call call = (Call)(uintptr_t)call_address, sync = (Call)(uintptr_t)sync_address;
    double *seconds = out.buf;
    Py_ssize_t samples = out.len / (Py_ssize_t)sizeof(double);

    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < samples && rc == 0; i++) {
        rc = CALL(sync, s);
        double start = now();
        for (Py_ssize_t k = 0; k < calls && rc == 0; k++)
            rc = CALL(call, a);
        seconds[i] = (now() - start) / (double)calls;
    }
    Py_END_ALLOW_THREADS

    PyBuffer_Release(&out);
    if (rc != 0)
        return PyErr_Format(PyExc_RuntimeError, "MPI call returned error code %d", rc);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(timer_doc, "timer() -> seconds that one reading of the clock costs (smallest of many).");

static PyObject *timer(PyObject *self, PyObject *unused)
{
    double best = 1.0;
    for (int i = 0; i < 200; i++) {
        double start = now(), end = start;
        for (int k = 0; k < 50; k++)
            end = now();
        if ((end - start) / 50 < best)
            best = (end - start) / 50;
    }
    return PyFloat_FromDouble(best);
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, run_doc},
    {"timer", timer, METH_NOARGS, timer_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cloop", "Timing loop for MPI calls.", -1, methods};

PyMODINIT_FUNC PyInit__cloop(void)
{
    return PyModule_Create(&module);
}
