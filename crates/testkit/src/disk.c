/* Disk faults: a library for LD_PRELOAD that replaces fdatasync and write.
 *
 * The folder named by DISK_FAULTS has a file for each fault: "hold" blocks fdatasync (and creates "held"
 * while it blocks), "eio" fails fdatasync, "erofs" fails every write to a journal. Each synced file is copied
 * to "synced" before the call returns, as the content of a disk that keeps only synced data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *faults_folder(void) { return getenv("DISK_FAULTS"); }

static int is_set(const char *what) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", faults_folder(), what);
    return access(path, F_OK) == 0;
}

static void keep(int fd) {
    char link[64], path[4096], copy[8192], aside[8200], block[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    snprintf(copy, sizeof copy, "%s/synced/%s", faults_folder(), name ? name + 1 : path);
    snprintf(aside, sizeof aside, "%s.aside", copy);
    int to = open(aside, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (to < 0) return;
    off_t at = 0;
    ssize_t read;
    while ((read = pread(fd, block, sizeof block, at)) > 0) {
        if (write(to, block, read) != read) break;
        at += read;
    }
    close(to);
    rename(aside, copy);
}

static int is_journal(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 6 && memcmp(path + length - 6, ".jsonl", 6) == 0;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*really)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (is_journal(fd) && is_set("erofs")) {
        errno = EROFS;
        return -1;
    }
    return really(fd, bytes, count);
}

int fdatasync(int fd) {
    int (*really)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (is_set("hold")) {
        char path[4096];
        snprintf(path, sizeof path, "%s/held", faults_folder());
        close(open(path, O_CREAT | O_WRONLY, 0600));
        while (is_set("hold")) usleep(1000);
        unlink(path);
    }
    if (is_set("eio")) {
        errno = EIO;
        return -1;
    }
    int result = really(fd);
    if (result == 0) keep(fd);
    return result;
}
