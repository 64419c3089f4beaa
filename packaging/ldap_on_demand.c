/* The functions of libldap that libpq calls, as in OpenLDAP's ldap.h. */

#include "on_demand.h"

struct timeval;
typedef struct ldap LDAP;
typedef struct message LDAPMessage;
struct berval;

ON_DEMAND(LDAP *, ldap_init, (const char *host, int port), (host, port))
ON_DEMAND(int, ldap_set_option, (LDAP * ldap, int option, const void *value), (ldap, option, value))
ON_DEMAND(int, ldap_simple_bind, (LDAP * ldap, const char *name, const char *password), (ldap, name, password))
ON_DEMAND(int, ldap_result, (LDAP * ldap, int id, int all, struct timeval *timeout, LDAPMessage **result),
          (ldap, id, all, timeout, result))
ON_DEMAND(int, ldap_unbind, (LDAP * ldap), (ldap))
ON_DEMAND(char *, ldap_err2string, (int error), (error))
ON_DEMAND(int, ldap_search_st,
          (LDAP * ldap, const char *base, int scope, const char *filter, char **attributes, int only_types,
           struct timeval *timeout, LDAPMessage **result),
          (ldap, base, scope, filter, attributes, only_types, timeout, result))
ON_DEMAND(int, ldap_count_entries, (LDAP * ldap, LDAPMessage *result), (ldap, result))
ON_DEMAND(LDAPMessage *, ldap_first_entry, (LDAP * ldap, LDAPMessage *result), (ldap, result))
ON_DEMAND(struct berval **, ldap_get_values_len, (LDAP * ldap, LDAPMessage *entry, const char *attribute),
          (ldap, entry, attribute))
ON_DEMAND(void, ldap_value_free_len, (struct berval * *values), (values))
ON_DEMAND(int, ldap_msgfree, (LDAPMessage * message), (message))
