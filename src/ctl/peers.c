/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/ctl.h"
#include "ctl/format.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS 8
#define STATE_COLUMN 1

void ctl_peer_text(const struct farm *f, const char *peer, const char *file, char *out, size_t n)
{
    char path[PATH_MAX], *text;
    snprintf(path, sizeof(path), "peers/%s/%s", peer, file);
    out[0] = '\0';
    if (farm_read(f, path, &text, NULL) < 0)
        return; /* the peer was taken out of the configuration meanwhile */
    text[strcspn(text, "\n")] = '\0';
    snprintf(out, n, "%s", text);
    free(text);
}

static void add_peer(const struct farm *f, const char *name, struct table *t)
{
    static const struct {
        const char *file;
        void (*format)(const char *text, char out[FORMAT_TEXT_MAX]);
    } numbers[] = {
        {"lag", format_ms},     {"backlog", format_backlog}, {"rtt", format_us},
        {"sent", format_bytes}, {"received", format_bytes},
    };
    char state[FORMAT_TEXT_MAX], text[FORMAT_TEXT_MAX], error[256];
    char shown[sizeof(numbers) / sizeof(numbers[0])][FORMAT_TEXT_MAX];
    const char *cells[COLUMNS] = {name, state};
    ctl_peer_text(f, name, "state", state, sizeof(state));
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        ctl_peer_text(f, name, numbers[i].file, text, sizeof(text));
        numbers[i].format(text, shown[i]);
        cells[2 + i] = shown[i];
    }
    ctl_peer_text(f, name, "error", error, sizeof(error));
    cells[COLUMNS - 1] = error;
    table_add(t, cells);
}

static int print_json(const struct farm *f)
{
    char *text;
    const char *value;
    size_t n;
    int err = farm_read(f, "status.json", &text, NULL);
    if (err < 0)
        return ctl_failed(f, "status.json", err);
    bool found = json_member(text, "peers", &value, &n);
    if (found)
        printf("%.*s\n", (int)n, value);
    else
        fprintf(stderr, "farmctl: %s/.farm/status.json has no member \"peers\"\n", farm_folder(f));
    free(text);
    return found ? EXIT_OK : EXIT_FAILED;
}

int ctl_peers(const struct farm *f, const struct options *o)
{
    static const char *const head[COLUMNS] = {"PEER", "STATE", "LAG",      "BACKLOG",
                                              "RTT",  "SENT",  "RECEIVED", "ERROR"};
    if (o->json)
        return print_json(f);
    char **names;
    int err = farm_list(f, "peers", &names);
    if (err < 0)
        return ctl_failed(f, "peers", err);
    struct table t;
    table_init(&t, COLUMNS);
    table_add(&t, head);
    for (size_t i = 0; names[i] != NULL; i++)
        add_peer(f, names[i], &t);
    bool printed = table_print(&t, stdout, o->colour, STATE_COLUMN);
    table_fini(&t);
    farm_free_names(names);
    if (!printed)
        fputs("farmctl: out of memory\n", stderr);
    return printed ? EXIT_OK : EXIT_FAILED;
}
