/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * One space of error codes: 0 is success, a negative errno, or one of ours below -1000.
 * Functions pass codes up unchanged; they are logged once, where they are handled, and become an
 * errno only at the mount (err_to_errno).
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define FARM_MUSTUSE __attribute__((warn_unused_result))

enum farm_err {
    FARM_ECORRUPT = -1001, /* a checksum or a bound inside our own data is wrong */
    FARM_EPROTO = -1002,   /* a peer sent what the protocol does not allow now */
    FARM_EVERSION = -1003, /* a format or protocol version we do not speak */
    FARM_EFOLDER = -1004,  /* the other side serves another folder */
    FARM_EIDENT = -1005,   /* the other side is not who its key says it is */
    FARM_EDIGEST = -1006,  /* content does not have the digest it was announced with */
    FARM_EBASE = -1007,    /* a delta's base is not what we hold */
    FARM_EHOSTKEY = -1008, /* unknown or changed host key */
    FARM_EAUTH = -1009,    /* the peer refused our key */
    FARM_EBUSY = -1010,    /* another daemon holds this folder */
    FARM_ECONFIG = -1011,  /* a configuration error, already reported with its line */
    FARM_ECLOSED = -1012,  /* the stream or queue was closed */
    FARM_ECHANGED = -1013, /* a file changed while it was being read */
    FARM_EFULL = -1014,    /* a bounded container is full */
};

/* Text of a code: static storage, never NULL. */
const char *err_text(int code);
/* The positive errno that a system call should return for a code. */
int err_to_errno(int code);

#endif
