// Clang's thread-safety annotations; empty for other compilers.
#pragma once

#if defined(__clang__)
#define PERDURE_TSA(x) __attribute__((x))
#else
#define PERDURE_TSA(x)
#endif

#define CAPABILITY(name) PERDURE_TSA(capability(name))
#define SCOPED_CAPABILITY PERDURE_TSA(scoped_lockable)
#define GUARDED_BY(lock) PERDURE_TSA(guarded_by(lock))
#define PT_GUARDED_BY(lock) PERDURE_TSA(pt_guarded_by(lock))
#define REQUIRES(...) PERDURE_TSA(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) PERDURE_TSA(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) PERDURE_TSA(acquire_capability(__VA_ARGS__))
#define RELEASE(...) PERDURE_TSA(release_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) PERDURE_TSA(try_acquire_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(...) PERDURE_TSA(assert_capability(__VA_ARGS__))
#define RETURN_CAPABILITY(x) PERDURE_TSA(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS PERDURE_TSA(no_thread_safety_analysis)
