/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/ctl.h"
#include "ctl/format.h"
#include "ctl/watchdog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Names of the peers that have a backlog, blanks between; the caller frees. */
static char *behind(const struct farm *f)
{
    char *out = NULL, **names;
    size_t size;
    FILE *text = open_memstream(&out, &size);
    if (text == NULL)
        return NULL;
    if (farm_list(f, "peers", &names) == 0) {
        for (size_t i = 0; names[i] != NULL; i++) {
            char backlog[FORMAT_TEXT_MAX];
            ctl_peer_text(f, names[i], "backlog", backlog, sizeof(backlog));
            if (strpbrk(backlog, "123456789") != NULL)
                fprintf(text, "%s%s", ftell(text) > 0 ? " " : "", names[i]);
        }
        farm_free_names(names);
    }
    return fclose(text) == 0 ? out : NULL;
}

static void print_missing_json(const char *names)
{
    fputs("{\"ok\": false, \"missing\": [", stdout);
    for (size_t n; *names != '\0'; names += n + (names[n] == ' ')) {
        n = strcspn(names, " ");
        json_string(stdout, names, n);
        if (names[n] == ' ')
            fputs(", ", stdout);
    }
    fputs("]}\n", stdout);
}

static int missing(const char *names, const struct options *o)
{
    if (o->json)
        print_missing_json(names);
    else if (names[0] == '\0')
        fputs("farmctl: barrier: not reached in time, though no peer has a backlog: look at "
              "`farmctl peers`\n",
              stderr);
    else
        fprintf(stderr, "farmctl: barrier: not reached in time, still missing on: %s\n", names);
    return EXIT_LATE;
}

static int late(const struct farm *f, const struct options *o)
{
    char *names = behind(f);
    int code = missing(names != NULL ? names : "", o);
    free(names);
    return code;
}

static int answered(const char *answer, const struct options *o)
{
    if (strncmp(answer, "missing ", 8) == 0)
        return missing(answer + 8, o);
    if (strncmp(answer, "ok", 2) != 0 || (answer[2] != ' ' && answer[2] != '\0')) {
        fprintf(stderr, "farmctl: barrier: the daemon says: %s\n", answer);
        return EXIT_FAILED;
    }
    const char *position = answer[2] == ' ' ? answer + 3 : "";
    bool number = position[0] != '\0' && position[strspn(position, "0123456789")] == '\0';
    if (!o->json)
        puts("every reachable node has all that was written here before");
    else
        printf("{\"ok\": true, \"position\": %s}\n", number ? position : "null");
    return EXIT_OK;
}

int ctl_barrier(const struct farm *f, const struct options *o)
{
    char *answer;
    (void)watchdog_set(o->timeout_ms < 0 ? -1 : o->timeout_ms + ANSWER_MS);
    int err = farm_barrier(f, o->timeout_ms, &answer);
    (void)watchdog_set(ANSWER_MS);
    if (err == -ETIMEDOUT)
        return late(f, o);
    if (err < 0)
        return ctl_failed(f, "barrier", err);
    int code = answered(answer, o);
    free(answer);
    return code;
}
