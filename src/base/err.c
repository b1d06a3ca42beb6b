/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/err.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

struct err_entry {
    int code;
    int errnum; /* what a system call returns for it */
    const char *text;
};

static const struct err_entry table[] = {
    {FARM_ECORRUPT, EIO, "corrupt data"},
    {FARM_EPROTO, EPROTO, "protocol violation by the peer"},
    {FARM_EVERSION, EPROTONOSUPPORT, "unsupported format or protocol version"},
    {FARM_EFOLDER, EIO, "the peer serves another folder"},
    {FARM_EIDENT, EACCES, "the peer is not who its key says it is"},
    {FARM_EDIGEST, EIO, "content does not match its digest"},
    {FARM_EBASE, EIO, "the base of the delta is not held here"},
    {FARM_EHOSTKEY, EACCES, "unknown or changed host key"},
    {FARM_EAUTH, EACCES, "the peer refused our key"},
    {FARM_EBUSY, EBUSY, "the folder is held by another daemon"},
    {FARM_ECONFIG, EINVAL, "configuration error"},
    {FARM_ECLOSED, EIO, "closed"},
    {FARM_ECHANGED, EAGAIN, "the file changed while it was read"},
    {FARM_EFULL, ENOBUFS, "full"},
};

static const struct err_entry *find(int code)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].code == code)
            return &table[i];
    return NULL;
}

const char *err_text(int code)
{
    const struct err_entry *e = find(code);
    if (e != NULL)
        return e->text;
    /* strerrordesc_np is strerror without its shared buffer */
    const char *text = code > -1000 && code <= 0 ? strerrordesc_np(-code) : NULL;
    return text != NULL ? text : "unknown error";
}

int err_to_errno(int code)
{
    const struct err_entry *e = find(code);
    if (e != NULL)
        return e->errnum;
    return code > -1000 && code <= 0 ? -code : EIO;
}
