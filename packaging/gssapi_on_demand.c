/* The functions of libgssapi that libpq calls, as in MIT Kerberos' gssapi.h (RFC 2744). */

#include "on_demand.h"

#include <stdint.h>

typedef uint32_t status;
typedef struct name *name;
typedef struct credentials *credentials;
typedef struct context *context;
typedef struct bindings *bindings;
typedef struct buffer *buffer;
typedef struct oids *oids;
typedef struct oid {
    uint32_t length;
    void *elements;
} *oid;

/* A name such as postgres@host. Object identifiers are compared by value, so the library takes this for its own. */
static struct oid host_based_service = {10, "\x2a\x86\x48\x86\xf7\x12\x01\x02\x01\x04"};
PUBLIC oid GSS_C_NT_HOSTBASED_SERVICE = &host_based_service;

ON_DEMAND(status, gss_acquire_cred,
          (status *minor, name of, uint32_t time, oids wanted, int usage, credentials *found, oids *actual,
           uint32_t *remaining),
          (minor, of, time, wanted, usage, found, actual, remaining))
ON_DEMAND(status, gss_delete_sec_context, (status *minor, context *of, buffer token), (minor, of, token))
ON_DEMAND(status, gss_display_status,
          (status *minor, status value, int type, oid mechanism, uint32_t *more, buffer text),
          (minor, value, type, mechanism, more, text))
ON_DEMAND(status, gss_import_name, (status *minor, buffer text, oid type, name *imported),
          (minor, text, type, imported))
ON_DEMAND(status, gss_init_sec_context,
          (status *minor, credentials of, context *made, name target, oid mechanism, uint32_t flags, uint32_t time,
           bindings channel, buffer in, oid *actual, buffer out, uint32_t *given, uint32_t *remaining),
          (minor, of, made, target, mechanism, flags, time, channel, in, actual, out, given, remaining))
ON_DEMAND(status, gss_release_buffer, (status *minor, buffer released), (minor, released))
ON_DEMAND(status, gss_release_cred, (status *minor, credentials *released), (minor, released))
ON_DEMAND(status, gss_release_name, (status *minor, name *released), (minor, released))
ON_DEMAND(status, gss_unwrap,
          (status *minor, context of, buffer in, buffer out, int *confidential, uint32_t *quality),
          (minor, of, in, out, confidential, quality))
ON_DEMAND(status, gss_wrap,
          (status *minor, context of, int confidential, uint32_t quality, buffer in, int *state, buffer out),
          (minor, of, confidential, quality, in, state, out))
ON_DEMAND(status, gss_wrap_size_limit,
          (status *minor, context of, int confidential, uint32_t quality, uint32_t out, uint32_t *in),
          (minor, of, confidential, quality, out, in))
