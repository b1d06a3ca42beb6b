/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/clock.h"
#include "mount/mount_i.h"

#include <errno.h>
#include <stddef.h>

static void intent_fill(struct intent *in, struct mount *m, enum intent_op op)
{
    memset(in, 0, offsetof(struct intent, name1));
    in->op = (uint16_t)op;
    in->conn = m->env.shared->conn;
    in->wall_us = clock_wall(&clock_system);
}

bool capture_visible(const struct mount *m, uint64_t parent, const char *name)
{
    return parent != LID_ROOT || (strcmp(name, CONTROL_NAME) != 0 &&
                                  (m->env.hide == NULL || strcmp(name, m->env.hide) != 0));
}

void change_open(struct change *c, struct mount *m, enum intent_op op)
{
    c->m = m;
    c->key1 = 0;
    c->key2 = 0;
    c->ref = 0;
    c->begun = false;
    intent_fill(&c->in, m, op);
    c->in.unique = mount_self->unique;
}

static int put_name(const struct mount *m, uint64_t parent, const char *name, uint8_t *out,
                    uint8_t *out_len)
{
    size_t len = strlen(name);
    if (len > 255)
        return -ENAMETOOLONG;
    if (!capture_visible(m, parent, name))
        return -EPERM;
    memcpy(out, name, len);
    *out_len = (uint8_t)len;
    return 0;
}

int change_claim(struct change *c, struct mount *m, enum intent_op op, uint64_t parent,
                 const char *name, uint64_t parent2, const char *name2)
{
    change_open(c, m, op);
    struct intent *in = &c->in;
    in->parent = parent;
    int r = put_name(m, parent, name, in->name1, &in->name1_len);
    if (r < 0)
        return r;
    if (name2 != NULL) {
        in->parent2 = parent2;
        r = put_name(m, parent2, name2, in->name2, &in->name2_len);
        if (r < 0)
            return r;
        c->key2 = claims_key(parent2, name2, in->name2_len);
    }
    c->key1 = claims_key(parent, name, in->name1_len);
    claims_take(m->env.claims, c->key1, c->key2);
    return 0;
}

bool change_answered(struct change *c)
{
    struct intent was;
    if (!mount_self->resent || intent_find(c->m->env.intents, c->in.conn, c->in.unique, &was) < 0 ||
        was.op != c->in.op || was.result == -EAGAIN) /* begun and not carried out */
        return false;
    c->in = was;
    return true;
}

int change_begin(struct change *c)
{
    int r = intent_begin(c->m->env.intents, &c->in, &c->ref);
    c->begun = r == 0;
    return r;
}

int change_end(struct change *c, int result)
{
    if (c->begun) {
        c->in.result = result;
        intent_complete(c->m->env.intents, c->ref, &c->in);
    }
    if (c->key1 != 0)
        claims_drop(c->m->env.claims, c->key1, c->key2);
    return result;
}

int capture_add(struct mount *m, enum intent_op op, uint16_t flags, uint64_t lid, uint64_t off,
                uint64_t len)
{
    struct intent in;
    intent_fill(&in, m, op);
    in.flags = flags;
    in.lid = lid;
    in.off = off;
    in.len = len;
    return intent_add(m->env.intents, &in);
}
