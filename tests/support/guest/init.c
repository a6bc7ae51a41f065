/*
 * A guest that can tell the truth about its own migration.
 *
 * It is the only process of a Linux guest. It fills the guest's memory with a pattern it can compute again, rewrites
 * a part of it at a given rate, compares all of it over and over, and says so on the first serial port:
 *
 *     READY pages=<n> mib=<n> seed=<n> fill_ms=<n> button=<0|1>
 *     B <number> <monotonic ms> <rounds verified> <corrupt pages> <pages dirtied>
 *     CORRUPT page=<n> expected=<generation> found=<generation|garbage> word=<first wrong of 512>
 *     D <blocks written to the disk> <rounds over the disk>
 *     CORRUPT disk block=<n> expected=<generation> found=<generation|garbage> word=<first wrong of 512>
 *     CORRUPT table expected=<sum of generations> found=<sum of generations>
 *     FATAL <why>
 *     OFF <beats written>
 *
 * Every page starts with a key that is a bijection of (seed, generation, page), so a wrong page tells which old
 * generation, or which other page, lies in its place.
 *
 * The system calls that look idle (flush_soft_tlb) are not: QEMU before 9.0 misses guest writes under TCG that go
 * through warm soft-TLB entries. With pti=on each kernel entry writes CR3, which empties that TLB.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/input.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))
#define PAGES_PER_MIB 256u
#define NS_PER_MS 1000000ul
#define NS_PER_S 1000000000ul
#define MOST_CORRUPT_LINES 32
#define HEADROOM_MIB 48u
#define DIRTIED_AT_A_TIME 8u
#define VERIFIED_AT_A_TIME 32u
#define FLUSHES_AT_A_TIME 16u

/* ---- settings: from the kernel command line, ferry.<name>=<number> ---- */

static struct {
    uint64_t mib;            /* memory to fill; 0: what is available less a headroom */
    uint64_t dirty_mib_s;    /* rate of rewriting */
    uint64_t workset_mib;    /* the part that is rewritten, from the first page on */
    uint64_t verify_percent; /* share of the vCPU for comparing */
    uint64_t beat_ms;
    uint64_t seed;
    uint64_t disk_mib;      /* the part of /dev/vda that is written to; 0: there is no disk */
    uint64_t disk_writes_s; /* blocks of 4 KiB */
} settings = {0, 0, 64, 30, 10, 1, 0, 200};

static char command_line[8192];

static void read_setting(const char *name, uint64_t *value)
{
    char needle[64];
    snprintf(needle, sizeof needle, "ferry.%s=", name);
    const char *found = strstr(command_line, needle);
    if (found)
        *value = strtoull(found + strlen(needle), NULL, 0);
}

static void read_settings(void)
{
    int file = open("/proc/cmdline", O_RDONLY);
    if (file >= 0 && read(file, command_line, sizeof command_line - 1) < 0)
        command_line[0] = 0;
    close(file);
    read_setting("mib", &settings.mib);
    read_setting("dirty_mib_s", &settings.dirty_mib_s);
    read_setting("workset_mib", &settings.workset_mib);
    read_setting("verify_percent", &settings.verify_percent);
    read_setting("beat_ms", &settings.beat_ms);
    read_setting("seed", &settings.seed);
    read_setting("disk_mib", &settings.disk_mib);
    read_setting("disk_writes_s", &settings.disk_writes_s);
    if (!settings.beat_ms)
        settings.beat_ms = 10;
}

static uint64_t available_mib(void)
{
    char line[128];
    uint64_t kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lu", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib / 1024;
}

/* ---- time ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void flush_soft_tlb(void)
{
    syscall(SYS_getppid);
}

/* ---- the serial port: lines are queued whole and leave as the port takes them ---- */

#define PORT 0x3f8
#define LINE_STATUS (PORT + 5)
#define TRANSMITTER_EMPTY 0x20
#define FIFO_BYTES 16
#define QUEUE_BYTES 65536u

static char queue[QUEUE_BYTES];
static uint32_t queue_in, queue_out;

static void open_port(void)
{
    ioperm(PORT, 8, 1);
    outb(0x00, PORT + 1); /* no interrupts: the kernel's driver never hears of us */
    outb(0x80, PORT + 3);
    outb(0x01, PORT + 0); /* 115200 baud: QEMU does not slow output down to it */
    outb(0x00, PORT + 1);
    outb(0x03, PORT + 3);
    outb(0x07, PORT + 2); /* FIFOs on and empty */
    outb(0x03, PORT + 4);
}

/* Everything the port takes now is written; a reader who is slow costs the guest nothing until the queue is full. */
static void pump_port(void)
{
    while (queue_in != queue_out && (inb(LINE_STATUS) & TRANSMITTER_EMPTY))
        for (int i = 0; i < FIFO_BYTES && queue_in != queue_out; i++)
            outb((unsigned char)queue[queue_out++ % QUEUE_BYTES], PORT);
}

static void drain_port(void)
{
    while (queue_in != queue_out)
        pump_port();
}

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    while (QUEUE_BYTES - (queue_in - queue_out) < (uint32_t)length)
        pump_port();
    for (int i = 0; i < length; i++)
        queue[queue_in++ % QUEUE_BYTES] = line[i];
    pump_port();
}

static void __attribute__((noreturn)) die(const char *why)
{
    say("FATAL %s", why);
    drain_port();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

/* ---- the pattern ---- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t unmix(uint64_t z)
{
    z = (z ^ (z >> 31) ^ (z >> 62)) * 0x319642b2d24d8ec3ull;
    z = (z ^ (z >> 27) ^ (z >> 54)) * 0x96de1b173f119089ull;
    return z ^ (z >> 30) ^ (z >> 60);
}

static uint64_t page_key(uint32_t page, uint32_t generation)
{
    return mix(((uint64_t)generation << 32 | page) ^ settings.seed);
}

static inline uint64_t next_word(uint64_t word)
{
    return word * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
}

static void write_page(uint64_t *words, uint64_t key)
{
    for (unsigned i = 0; i < PAGE_WORDS; i += 8)
        for (unsigned j = 0; j < 8; j++, key = next_word(key))
            words[i + j] = key;
}

/* The index of the first wrong word; PAGE_WORDS if there is none. */
static unsigned first_wrong_word(const uint64_t *words, uint64_t key)
{
    const uint64_t start = key;
    for (unsigned i = 0; i < PAGE_WORDS; i += 8) {
        uint64_t wrong = 0;
        for (unsigned j = 0; j < 8; j++, key = next_word(key))
            wrong |= words[i + j] ^ key;
        if (wrong)
            goto search;
    }
    return PAGE_WORDS;
search:
    key = start;
    for (unsigned i = 0; i < PAGE_WORDS; i++, key = next_word(key))
        if (words[i] != key)
            return i;
    return 0; /* wrong a moment ago and right now: still worth a report */
}

/* ---- memory and its generation table ---- */

static uint64_t *memory;
static uint32_t *generations;
static uint32_t pages, workset_pages;
static uint64_t dirtied, rounds, corrupt;

static uint64_t *page_at(uint32_t page)
{
    return memory + (uint64_t)page * PAGE_WORDS;
}

static void *map_or_die(uint64_t bytes)
{
    void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        die("not enough memory");
    madvise(area, bytes, MADV_HUGEPAGE);
    /* at once: under TCG with pti=on a page fault for each page would cost five times as much */
    if (madvise(area, bytes, MADV_POPULATE_WRITE))
        die("not enough memory");
    return area;
}

static uint64_t fill_memory(void)
{
    uint64_t started_ns = now_ns();
    uint64_t available = available_mib();
    if (available <= HEADROOM_MIB)
        die("not enough memory");
    if (!settings.mib)
        settings.mib = available - HEADROOM_MIB;
    if (settings.mib > available)
        die("ferry.mib is more than what is available");
    pages = (uint32_t)(settings.mib * PAGES_PER_MIB);
    workset_pages = (uint32_t)(settings.workset_mib * PAGES_PER_MIB);
    if (workset_pages > pages || !workset_pages)
        workset_pages = pages;
    memory = map_or_die((uint64_t)pages * PAGE_BYTES);
    generations = map_or_die((uint64_t)pages * sizeof *generations);
    for (uint32_t page = 0; page < pages; page++)
        write_page(page_at(page), page_key(page, 0));
    memset(generations, 0, (uint64_t)pages * sizeof *generations);
    return (now_ns() - started_ns) / NS_PER_MS;
}

static void report_page(uint32_t page, unsigned word)
{
    uint64_t origin = unmix(page_at(page)[0]) ^ settings.seed;
    uint32_t generation = (uint32_t)(origin >> 32);
    if (++corrupt > MOST_CORRUPT_LINES)
        return;
    if ((uint32_t)origin == page)
        say("CORRUPT page=%u expected=%u found=%u word=%u", page, generations[page], generation, word);
    else if ((uint32_t)origin < pages && generation <= dirtied)
        say("CORRUPT page=%u expected=%u found=page%u:%u word=%u", page, generations[page], (uint32_t)origin,
            generation, word);
    else
        say("CORRUPT page=%u expected=%u found=garbage word=%u", page, generations[page], word);
}

/* A wrong page is reported once and then put right, so that the count is of events, not of rounds. */
static void verify_page(uint32_t page)
{
    uint64_t key = page_key(page, generations[page]);
    unsigned word = first_wrong_word(page_at(page), key);
    if (word == PAGE_WORDS)
        return;
    flush_soft_tlb();
    report_page(page, word);
    write_page(page_at(page), key);
    flush_soft_tlb();
    *(volatile uint64_t *)page_at(page) = *(volatile uint64_t *)page_at(page);
}

/*
 * A write through a warm entry of the soft TLB goes unnoticed when the dirty bitmap was collected since the entry was made. So
 * what has been written is written once more behind a flush, with the value that it has: now it counts as dirty, whole.
 */
static void touch(volatile uint64_t *word)
{
    *word = *word;
}

static void touch_page(uint32_t page)
{
    flush_soft_tlb();
    touch(page_at(page));
    touch((volatile uint64_t *)((uintptr_t)(generations + page) & ~(uintptr_t)7));
    touch(&dirtied);
}

/* Compared first: a page that arrived stale must be found, not painted over. */
static void dirty_next_page(void)
{
    uint32_t page = (uint32_t)(dirtied % workset_pages);
    verify_page(page);
    write_page(page_at(page), page_key(page, ++generations[page]));
    dirtied++;
    touch_page(page);
}

/* A stale page of the table would make right pages look wrong; the sum tells whose fault it was. */
static void verify_table(void)
{
    uint64_t sum = 0;
    for (uint32_t page = 0; page < pages; page++)
        sum += generations[page];
    flush_soft_tlb();
    if (sum != dirtied && ++corrupt <= MOST_CORRUPT_LINES)
        say("CORRUPT table expected=%lu found=%lu", dirtied, sum);
}

/* Comparing writes nothing, so that one flush ahead of the bookkeeping is enough for several pages. */
static void verify_next_pages(void)
{
    static uint32_t next;
    uint32_t end = pages - next < VERIFIED_AT_A_TIME ? pages : next + VERIFIED_AT_A_TIME;
    for (uint32_t page = next; page < end; page++)
        verify_page(page);
    flush_soft_tlb();
    next = end;
    if (end < pages)
        return;
    next = 0;
    verify_table();
    rounds++;
}

/* ---- the power button ---- */

static int buttons[8], button_count;

static int load_module(const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    int result = (int)syscall(SYS_finit_module, file, "", 0);
    close(file);
    return result;
}

static void find_buttons(void)
{
    char path[300];
    load_module("/button.ko");
    load_module("/evdev.ko");
    DIR *directory = opendir("/dev/input");
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        if (strncmp(entry->d_name, "event", 5) || button_count == 8)
            continue;
        snprintf(path, sizeof path, "/dev/input/%s", entry->d_name);
        int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (file >= 0)
            buttons[button_count++] = file;
    }
    if (directory)
        closedir(directory);
}

static int button_pressed(void)
{
    struct input_event event;
    for (int i = 0; i < button_count; i++)
        while (read(buttons[i], &event, sizeof event) == sizeof event)
            if (event.type == EV_KEY && event.code == KEY_POWER && event.value)
                return 1;
    return 0;
}

/* ---- the disk: a process of its own compares each block, and writes its next generation ---- */

#define DISK_FIRST_BLOCK 4096u /* what lies ahead of it is not the guest's */

static volatile struct {
    uint64_t written, rounds;
    uint32_t wrong, block, expected, found, word;
    int error;
} *disk;

static int open_disk(void)
{
    static const char *const modules[] = {"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev",
                                          "virtio_pci", "virtio_blk"};
    char path[64];
    for (unsigned i = 0; i < sizeof modules / sizeof *modules; i++) {
        snprintf(path, sizeof path, "/%s.ko", modules[i]);
        load_module(path);
    }
    int file = -1;
    for (int i = 0; i < 1000 && file < 0; i++) {
        file = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
        if (file < 0)
            usleep(10000);
    }
    return file;
}

static void compare_block(const uint64_t *block, uint32_t number, uint32_t generation)
{
    unsigned word = first_wrong_word(block, page_key(number, generation));
    if (word == PAGE_WORDS)
        return;
    uint64_t origin = unmix(block[0]) ^ settings.seed;
    disk->block = number;
    disk->expected = generation;
    disk->found = (uint32_t)origin == number ? (uint32_t)(origin >> 32) : UINT32_MAX;
    disk->word = word;
    disk->wrong++;
}

/* Each block is read back whole before it is written again: what is lost shows as an old generation, what is torn as garbage. */
static void write_block(int file, uint64_t *block, uint32_t number, uint32_t generation)
{
    off_t place = ((off_t)DISK_FIRST_BLOCK + number) * PAGE_BYTES;
    if (generation > 1) {
        if (pread(file, block, PAGE_BYTES, place) != PAGE_BYTES)
            disk->error = 1;
        compare_block(block, number, generation - 1);
    }
    write_page(block, page_key(number, generation));
    if (pwrite(file, block, PAGE_BYTES, place) != PAGE_BYTES)
        disk->error = 1;
    disk->written++;
}

static void __attribute__((noreturn)) use_disk(int file)
{
    uint64_t *block = map_or_die(PAGE_BYTES);
    for (uint32_t generation = 1;; generation++) {
        for (uint32_t number = 0; number < settings.disk_mib * PAGES_PER_MIB; number++) {
            write_block(file, block, number, generation);
            usleep((useconds_t)(1000000 / settings.disk_writes_s));
        }
        fdatasync(file);
        disk->rounds = generation;
    }
}

static void begin_with_disk(void)
{
    if (!settings.disk_mib || !settings.disk_writes_s)
        return;
    int file = open_disk();
    if (file < 0)
        die("there is no disk");
    disk = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (disk == MAP_FAILED)
        die("not enough memory");
    if (!fork())
        use_disk(file);
}

static void tell_of_disk(void)
{
    static uint32_t told;
    say("D %lu %lu", disk->written, disk->rounds);
    if (disk->error)
        die("the disk has failed");
    if (disk->wrong == told)
        return;
    told = disk->wrong;
    if (disk->found == UINT32_MAX)
        say("CORRUPT disk block=%u expected=%u found=garbage word=%u", disk->block, disk->expected, disk->word);
    else
        say("CORRUPT disk block=%u expected=%u found=%u word=%u", disk->block, disk->expected, disk->found, disk->word);
}

/* ---- the loop: a beat when it is due, else a page to dirty, else a page to verify, else sleep ---- */

static uint64_t beats, beat_due_ns, started_ns, verify_used_ns, dirty_forgiven;

/* Beats keep to a grid; a guest that got no time leaves slots of the grid out, but no number. */
static void beat(uint64_t now)
{
    uint64_t period_ns = settings.beat_ms * NS_PER_MS;
    flush_soft_tlb();
    say("B %lu %lu %lu %lu %lu", beats++, now / NS_PER_MS, rounds, corrupt, dirtied);
    beat_due_ns += ((now - beat_due_ns) / period_ns + 1) * period_ns;
    flush_soft_tlb();
    if (beats % 10)
        return;
    if (disk)
        tell_of_disk();
    if (button_pressed()) {
        say("OFF %lu", beats);
        drain_port();
        reboot(RB_POWER_OFF);
    }
}

/* Pages that should be dirty by now and are not; what is owed for more than 100 ms is forgiven. */
static uint64_t dirty_debt(uint64_t now)
{
    uint64_t per_s = settings.dirty_mib_s * PAGES_PER_MIB;
    uint64_t wanted = (now - started_ns) / 1000 * per_s / 1000000;
    uint64_t debt = wanted - dirty_forgiven - dirtied;
    if (debt > per_s / 10 && debt < UINT64_MAX / 2) {
        dirty_forgiven += debt - per_s / 10;
        debt = per_s / 10;
    }
    return debt < UINT64_MAX / 2 ? debt : 0;
}

static int may_verify(uint64_t now)
{
    if (settings.verify_percent >= 100)
        return 1;
    return verify_used_ns < (now - started_ns) / 100 * settings.verify_percent;
}

static void work(void)
{
    uint64_t now = now_ns();
    if (now >= beat_due_ns) {
        beat(now);
        return;
    }
    uint64_t debt = dirty_debt(now);
    if (debt) {
        for (unsigned i = 0; i < DIRTIED_AT_A_TIME && i < debt; i++)
            dirty_next_page();
    } else if (may_verify(now)) {
        verify_next_pages();
        verify_used_ns += now_ns() - now;
    } else {
        /* Never idle: an idle kernel takes interrupts without a flush, and what it writes then can be lost. */
        for (unsigned i = 0; i < FLUSHES_AT_A_TIME; i++)
            flush_soft_tlb();
    }
    pump_port();
}

int main(void)
{
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    prctl(PR_SET_TIMERSLACK, 1);
    open_port();
    read_settings();
    find_buttons();
    begin_with_disk(); /* before there is memory that two processes would share */
    uint64_t fill_ms = fill_memory();
    say("%s", ""); /* ends whatever the firmware left on the line */
    say("READY pages=%u mib=%lu seed=%lu fill_ms=%lu button=%d", pages, settings.mib, settings.seed, fill_ms,
        button_count > 0);
    started_ns = now_ns();
    beat_due_ns = started_ns;
    for (;;)
        work();
}
