/* The first code of the folder's program: it starts the program with the glibc in the folder.

   A program contains the absolute path of its dynamic loader, which the kernel starts. But the folder may be anywhere.
   So packaging/own_glibc.py removes that path, appends this code, and makes it the entry point. This code maps the
   folder's loader as the kernel would, and leaves the rest to it. The loader must find its libraries in the folder, and
   must ignore the LD_ variables, which are for the system's loader and the application. So it gets other variables than
   the program: a changed copy of what the kernel left on the stack. The loader does not notice any of this, and there
   is no second exec, so the process looks as if the kernel had done it.

   Python looks for its modules next to the program named in its first argument. A caller may put anything there, so we
   replace it with the program's real path, which we need for the loader anyway. ps shows the kernel's own copy, which
   does not change.

   This code must not need relocations or writable data: it runs as it is in the file, wherever it is mapped. */

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define VARIABLE "LD_LIBRARY_PATH="
#define LIBRARIES "/lib/glibc"
#define LOADER "/ld.so"
#define LONGEST "/lib/entrypoint/start.bundle" /* The longest text that is appended to the folder's path. */
#define BROKEN 70 /* EX_SOFTWARE, as for all other internal errors. */
#define MOST_LINKS 40

/* On the stack, above the copy. */
struct kept {
    uintptr_t *original;
    char program[PATH_MAX]; /* The program's path. */
    char variable[sizeof VARIABLE + PATH_MAX + sizeof LONGEST];
};

/* `arrive`, in the assembly below, is what the loader takes for the program's entry point. The linker's command defines
   program_start, which is the original one, and program_headers, which are for the loader. */
extern const char arrive[] __attribute__((visibility("hidden")));
extern const Elf64_Phdr program_headers[SEGMENTS] __attribute__((visibility("hidden")));

#if defined __x86_64__

__asm__(".section .text.begin, \"ax\"\n"
        "begin:  mov %rsp, %rbx\n"
        "        mov %rsp, %rdi\n"
        "        call size_of_copy\n"
        "        sub %rax, %rsp\n"
        "        mov %rbx, %rdi\n"
        "        mov %rsp, %rsi\n"
        "        call prepare\n"
        "        jmp *%rax\n"
        "arrive: mov %rsp, %rdi\n"
        "        push %rdx\n" /* The loader's exit function, which the program calls. */
        "        push %rdx\n"
        "        call put_back\n"
        "        pop %rdx\n"
        "        pop %rdx\n"
        "        jmp program_start\n"
        ".text\n");

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined __aarch64__

__asm__(".section .text.begin, \"ax\"\n"
        "begin:  mov x19, sp\n"
        "        mov x0, sp\n"
        "        bl size_of_copy\n"
        "        sub x1, x19, x0\n"
        "        mov sp, x1\n"
        "        mov x0, x19\n"
        "        bl prepare\n"
        "        br x0\n"
        "arrive: stp x0, x0, [sp, #-16]!\n" /* The loader's exit function, which the program calls. */
        "        add x0, sp, #16\n"
        "        bl put_back\n"
        "        ldp x0, x1, [sp], #16\n"
        "        b program_start\n"
        ".text\n");

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}

#else
#error "There is no wheel of psycopg for this processor."
#endif

static size_t length(const char *text)
{
    size_t count = 0;
    while (text[count])
        count++;
    return count;
}

static char *append(char *end, const char *text)
{
    while ((*end = *text++))
        end++;
    return end;
}

static void write_text(const char *text) { kernel(SYS_write, 2, (long)text, length(text), 0, 0, 0); }

_Noreturn static void fail(const char *what, const char *path, const char *why, const char *remedy)
{
    write_text("entrypoint: ");
    write_text(what);
    write_text(path);
    write_text(why);
    write_text("\nFix: ");
    write_text(remedy);
    write_text("\n");
    for (;;)
        kernel(SYS_exit_group, BROKEN, 0, 0, 0, 0, 0);
}

_Noreturn static void cannot_load(const char *path, const char *why)
{
    fail("cannot load ", path, why, "Copy the whole pg-entrypoint folder from an image for this processor.");
}

static int open_to_read(const char *path)
{
    long error = kernel(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (error >= 0)
        return error;
    if (error == -EACCES || error == -EPERM)
        fail("cannot load ", path, ": Permission denied",
             "Make the whole folder readable for the container's user, for example when you build the image: "
             "chmod -R a+rX FOLDER.");
    if (error == -EMFILE || error == -ENFILE)
        fail("cannot load ", path, ": too many files are open",
             "Raise the limit on open files: ulimit -n, or docker run --ulimit nofile.");
    cannot_load(path, error == -ENOENT ? ": No such file or directory" : ": it cannot be opened");
}

/* --- The vectors that the kernel leaves on the stack: a count, arguments, variables, auxiliary values --- */

static uintptr_t *variables(uintptr_t *vector) { return vector + 1 + vector[0] + 1; }

static uintptr_t *after_null(uintptr_t *words)
{
    while (*words)
        words++;
    return words + 1;
}

static Elf64_auxv_t *auxiliary(uintptr_t *vector) { return (Elf64_auxv_t *)after_null(variables(vector)); }

static uintptr_t auxiliary_value(uintptr_t *vector, uint64_t type)
{
    Elf64_auxv_t *entry = auxiliary(vector);
    while (entry->a_type != type && entry->a_type != AT_NULL)
        entry++;
    return entry->a_un.a_val;
}

static size_t size_of(uintptr_t *vector)
{
    Elf64_auxv_t *entry = auxiliary(vector);
    while (entry->a_type != AT_NULL)
        entry++;
    return (char *)(entry + 1) - (char *)vector;
}

/* Return how many bytes `prepare` needs on the stack: for the vector with one more variable, and for `struct kept`. */
__attribute__((used)) static size_t size_of_copy(uintptr_t *vector)
{
    return (size_of(vector) + sizeof(uintptr_t) + sizeof(struct kept) + 15) & ~(size_t)15;
}

/* Tell whether a variable is an instruction for a dynamic loader. */
static int is_for_a_loader(const char *variable)
{
    static const char tunables[] = "GLIBC_TUNABLES=";
    if (variable[0] == 'L' && variable[1] == 'D' && variable[2] == '_')
        return 1;
    for (size_t i = 0; i < sizeof tunables - 1; i++)
        if (variable[i] != tunables[i])
            return 0;
    return 1;
}

/* Return the value that the loader gets instead of the kernel's. */
static uintptr_t for_the_loader(uint64_t type, uintptr_t value, uintptr_t loader)
{
    switch (type) {
    case AT_BASE:
        return loader;
    case AT_ENTRY:
        return (uintptr_t)arrive;
    case AT_PHDR:
        return (uintptr_t)program_headers;
    case AT_PHNUM:
        return SEGMENTS;
    case AT_SECURE:
        /* The kernel sets this if the program has more privileges than its caller: by a set-user-ID bit, the file's
           capabilities, or a transition of SELinux or AppArmor. The loader would then ignore LD_LIBRARY_PATH and remove
           it. But the attack against which that protects is impossible here: the only LD_LIBRARY_PATH is ours, with the
           program's own path, and we have removed all other variables for a loader in any case. Besides, whoever sets
           the variables decides anyway which database is migrated, and which commands are run. */
        return 0;
    default:
        return value;
    }
}

static void copy(uintptr_t *from, uintptr_t *to, struct kept *kept, uintptr_t loader)
{
    uintptr_t *values = after_null(variables(from));
    uintptr_t *end = from + size_of(from) / sizeof *from;
    uintptr_t *variable = variables(from);
    while (from < variable)
        *to++ = *from++;
    for (; *variable; variable++)
        *to++ = is_for_a_loader((const char *)*variable) ? (uintptr_t) "" : *variable;
    *to++ = (uintptr_t)kept->variable;
    *to++ = 0;
    for (; values < end; values += 2, to += 2) {
        to[0] = values[0];
        to[1] = for_the_loader(values[0], values[1], loader);
    }
}

/* --- The loader --- */

/* Write the program's path to `path`, and return its end. If /proc is not mounted, use the path that the program was
   called by, and follow links here. */
static char *own_path(uintptr_t *vector, char *path)
{
    char target[PATH_MAX];
    long count = kernel(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)path, PATH_MAX - 1, 0, 0);
    if (count > 0)
        return path + count;
    const char *called = (const char *)auxiliary_value(vector, AT_EXECFN);
    if (!called || length(called) >= PATH_MAX)
        cannot_load("its libraries", ": the program's own path is unknown");
    char *end = append(path, called);
    for (int links = 0; links < MOST_LINKS; links++) {
        count = kernel(SYS_readlinkat, AT_FDCWD, (long)path, (long)target, PATH_MAX - 1, 0, 0);
        if (count <= 0)
            break;
        target[count] = 0;
        if (target[0] == '/')
            end = path;
        else
            while (end > path && end[-1] != '/')
                end--;
        if (end - path + count >= PATH_MAX)
            break;
        end = append(end, target);
    }
    return end;
}

static int protection(const Elf64_Phdr *segment)
{
    return (segment->p_flags & PF_R ? PROT_READ : 0) | (segment->p_flags & PF_W ? PROT_WRITE : 0)
           | (segment->p_flags & PF_X ? PROT_EXEC : 0);
}

static int map(uintptr_t at, size_t size, int allowed, int flags, int file, size_t offset)
{
    return kernel(SYS_mmap, at, size, allowed, flags | MAP_PRIVATE | MAP_FIXED, file, offset) == (long)at;
}

static int map_segment(uintptr_t base, const Elf64_Phdr *segment, int file, size_t page)
{
    uintptr_t start = base + segment->p_vaddr, first = start & -page;
    uintptr_t end_of_file = start + segment->p_filesz, end = start + segment->p_memsz;
    uintptr_t next_page = (end_of_file + page - 1) & -page;
    if (!map(first, end_of_file - first, protection(segment), 0, file, segment->p_offset - (start - first)))
        return 0;
    if (segment->p_flags & PF_W)
        for (char *byte = (char *)end_of_file; byte < (char *)next_page; byte++)
            *(volatile char *)byte = 0;
    return end <= next_page || map(next_page, end - next_page, protection(segment), MAP_ANONYMOUS, -1, 0);
}

/* Map the loader; return its address, and set `entry` to its entry point. */
static uintptr_t map_loader(const char *path, size_t page, uintptr_t *entry)
{
    union {
        Elf64_Ehdr header;
        char bytes[4096]; /* Including the program headers, which follow the header. */
    } begin;
    struct stat status;
    int file = open_to_read(path);
    long count = kernel(SYS_read, file, (long)&begin, sizeof begin, 0, 0, 0);
    Elf64_Phdr *segments = (Elf64_Phdr *)(begin.bytes + begin.header.e_phoff);
    Elf64_Phdr *end = segments + begin.header.e_phnum;
    if (count != sizeof begin || begin.bytes[1] != 'E' || begin.header.e_phoff >= sizeof begin || (char *)end > begin.bytes + sizeof begin
        || kernel(SYS_fstat, file, (long)&status, 0, 0, 0, 0))
        cannot_load(path, ": it is damaged");
    /* Using a page beyond the end of the file would raise SIGBUS. */
    for (Elf64_Phdr *segment = segments; segment < end; segment++)
        if (segment->p_type == PT_LOAD && segment->p_offset + segment->p_filesz > (size_t)status.st_size)
            cannot_load(path, ": it is damaged");
    size_t size = 0;
    for (Elf64_Phdr *segment = segments; segment < end; segment++)
        if (segment->p_type == PT_LOAD)
            size = segment->p_vaddr + segment->p_memsz;
    /* Reserve the address range for all segments. */
    long base = kernel(SYS_mmap, 0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base < 0 && base > -4096)
        cannot_load(path, ": no memory");
    for (Elf64_Phdr *segment = segments; segment < end; segment++)
        if (segment->p_type == PT_LOAD && !map_segment(base, segment, file, page))
            cannot_load(path, ": it cannot be mapped into memory");
    kernel(SYS_close, file, 0, 0, 0, 0, 0);
    *entry = base + begin.header.e_entry;
    return base;
}

/* --- Before the loader, and after it --- */

static int is_of_a_name(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/* Tell whether the loader would replace what follows a $: one of its names, alone or in braces. */
static int is_replaced(const char *text)
{
    static const char names[][9] = {"ORIGIN", "LIB", "PLATFORM"};
    int braces = *text == '{';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *rest = text + braces, *name = names[i];
        while (*name && *name == *rest)
            name++, rest++;
        if (!*name && (braces ? *rest == '}' : !is_of_a_name(*rest)))
            return 1;
    }
    return 0;
}

/* Return what in the path has a special meaning to the loader (ld.so(8), LD_LIBRARY_PATH, "Dynamic string tokens"), or
   0 if nothing has. */
static const char *special(const char *path)
{
    for (; *path; path++)
        if (*path == ':')
            return ": there is a colon (:) in its path";
        else if (*path == ';')
            return ": there is a semicolon (;) in its path";
        else if (*path == '$' && is_replaced(path + 1))
            return ": there is a $ in its path with a name that the dynamic loader replaces";
    return 0;
}

/* Without these files, the loader or Python would end the program with its own message, and without a remedy. */
static const char needed[][sizeof LONGEST] = {"/lib/__init__entrypoint.pyc", "/lib/entrypoint/start.bundle",
                                              "/lib/glibc/libc.so.6", "/lib/glibc/libm.so.6"};

/* Build the vector for the loader at `to`, and return the address to continue at. */
__attribute__((used)) static uintptr_t prepare(uintptr_t *vector, uintptr_t *to)
{
    struct kept *kept = (struct kept *)((char *)to + size_of(vector) + sizeof *to);
    kept->original = vector;
    *own_path(vector, kept->program) = 0;
    char *path = append(kept->variable, VARIABLE);
    char *end = append(path, kept->program);
    while (end > path && end[-1] != '/')
        end--;
    /* The folder is the root directory, or the path has no slash, which happens only without /proc. */
    if (end == path)
        *end++ = '.';
    else
        end--;
    *end = 0;
    const char *wrong = special(path);
    if (wrong)
        fail("cannot start from ", path, wrong,
             "Move the pg-entrypoint folder elsewhere, for example to /opt/entrypoint.");
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        append(end, needed[i]);
        kernel(SYS_close, open_to_read(path), 0, 0, 0, 0, 0);
    }
    append(append(end, LIBRARIES), LOADER);
    uintptr_t entry;
    uintptr_t loader = map_loader(path, auxiliary_value(vector, AT_PAGESZ), &entry);
    end[sizeof LIBRARIES - 1] = 0;
    copy(vector, to, kept, loader);
    return entry;
}

/* Give the program its original variables, and its path as the first argument. */
__attribute__((used)) static void put_back(uintptr_t *vector)
{
    uintptr_t *end = after_null(variables(vector)) - 1;
    struct kept *kept = (struct kept *)(end[-1] - offsetof(struct kept, variable));
    uintptr_t *from = variables(kept->original), *to = variables(vector);
    while ((*to++ = *from++))
        ;
    if (vector[0])
        vector[1] = (uintptr_t)kept->program;
}
