/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Logging: one line per call on stderr, `TIME LEVEL name: text`, safe from any thread.
 * Repeated identical formats from one place are limited to 10 per second (the rest are counted).
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_DEBUG_, LOG_INFO_, LOG_WARN_, LOG_ERROR_ };

/* Who speaks (e.g. "web1/www worker"); copied, at most 63 bytes. Call before threads start. */
void log_init(const char *name, enum log_level least);
bool log_enabled(enum log_level level);
void log_write(enum log_level level, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_debug(...)                             \
    do {                                           \
        if (log_enabled(LOG_DEBUG_))               \
            log_write(LOG_DEBUG_, 0, __VA_ARGS__); \
    } while (0)
#define log_info(...) log_write(LOG_INFO_, 0, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN_, 0, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR_, 0, __VA_ARGS__)
/* The same with the text of an error code appended: "...: No space left on device". */
#define log_warn_code(code, ...) log_write(LOG_WARN_, code, __VA_ARGS__)
#define log_error_code(code, ...) log_write(LOG_ERROR_, code, __VA_ARGS__)

/* For our own mistakes only; stays on in release builds. */
#define farm_assert(x)                         \
    do {                                       \
        if (__builtin_expect(!(x), 0))         \
            log_panic(__FILE__, __LINE__, #x); \
    } while (0)
void log_panic(const char *file, int line, const char *what) __attribute__((noreturn));

#endif
