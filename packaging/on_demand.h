/* What libldap and libgssapi need is loaded when libpq first calls one of their functions.

   Most starts call none of them: libpq needs libldap only for a service whose address is in an LDAP directory, and
   libgssapi only for Kerberos. Loading both, and the nine libraries that they need, takes a tenth of an up-to-date start.
   So packaging/fewer_libraries.py makes libpq need libraries made of this instead. They define the functions that libpq
   calls. Each function loads the real library and calls its namesake there. */

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

/* Two threads may do this at the same time: dlopen returns the same library to both. */
static void *find(const char *name)
{
    void *library = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        /* The folder is incomplete. No return value would mean an error for every function. */
        fprintf(stderr, "entrypoint: cannot load %s\nFix: Copy the whole pg-entrypoint folder from an image for this "
                        "processor.\n", dlerror());
        _exit(70); /* EX_SOFTWARE */
    }
    return function;
}

#define ON_DEMAND(type, name, parameters, arguments)            \
    PUBLIC type name parameters                                 \
    {                                                           \
        return ((type(*) parameters)find(#name))arguments;      \
    }
