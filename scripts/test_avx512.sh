#!/usr/bin/env bash
# Runs the AVX-512 kernels' tests on any x86-64 machine: in Linux on Bochs, which emulates such a processor.
# Arguments go to the test program. It is slow: without arguments the longest tests are left out.
# For Debian 12; what is missing is installed where that is allowed, and all files are under build/avx512.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then
    set -- backend::cpu --skip threads:: --skip bits_do_not_depend --skip bits_depend --skip mlps_of \
        --skip cuts_of_wide --skip draws_follow --skip a_layer --skip projections_add
fi
repo=$PWD
work=$PWD/build/avx512
root=$work/root
rm -rf "$work"
mkdir -p "$work/iso" "$root"/{bin,dev,proc,sys,tmp}

scripts/packages.sh bochs bochsbios bochs-term vgabios isolinux syslinux-common xorriso cpio busybox-static

# The kernel is taken out of its package, not installed.
image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: \(linux-image-\)/\1/p')
(cd "$work" && apt-get download -qq "$image" && dpkg -x linux-image-*.deb kernel)
cp "$work"/kernel/boot/vmlinuz-* "$work/iso/vmlinuz"

# The root file system: the test program, its libraries, its data where it expects them, and a shell.
tests=$(cargo test --lib --no-run 2>&1 | tee /dev/stderr | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
strip -g -o "$root/tests" "$tests"
ldd "$tests" | grep -o '/lib[^ ]*' | while read -r library; do
    install -D "$library" "$root$library"
done
mkdir -p "$root$repo/tests/data"
cp -r tests/data/blocks "$root$repo/tests/data/"
cp /bin/busybox "$root/bin/"
printf '%s\n' "$@" > "$root/arguments"
cat > "$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec > /dev/ttyS0 2>&1
for flag in avx512f avx512bw avx512vl avx512_vnni; do
    /bin/busybox grep -q -w $flag /proc/cpuinfo || echo "missing: $flag"
done
/tests --test-threads=1 $(/bin/busybox cat /arguments)
echo "exit status: $?"
/bin/busybox usleep 20000 # until the serial port has sent it
/bin/busybox poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1 > "$work/iso/initrd")

# Of Bochs 2.7's features Linux finds fault with pku and xsaves (the size of the saved state) and with fsrm
# without fast strings (its memmove runs wild). None has to do with what is tested.
options="console=ttyS0 loglevel=3 panic=-1 mitigations=off nokaslr lsm=capability"
cat > "$work/iso/isolinux.cfg" <<CONFIG
default linux
label linux
kernel vmlinuz
append initrd=initrd $options clearcpuid=aperfmperf,pku,xsaves,xsavec,fsrm
CONFIG
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/"
xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux.bin -c boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table "$work/iso" 2> /dev/null
cat > "$work/bochsrc" <<CONFIG
display_library: term
cpu: model=corei7_icelake_u, ips=40000000
memory: guest=768, host=768
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/tests.log
log: $work/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
CONFIG
echo continue > "$work/debugger"

echo "booting; the tests' output comes in pieces, the first after a minute or two"
: > "$work/tests.log"
TERM=xterm script -qec "bochs -q -f $work/bochsrc -rc $work/debugger" "$work/screen.log" \
    > /dev/null 2>&1 < /dev/null &
tail -n +1 -f --pid=$! "$work/tests.log"
if grep -q '^missing' "$work/tests.log" || ! grep -q '^exit status: 0' "$work/tests.log"; then
    echo "The tests failed: see $work/tests.log, $work/screen.log and $work/bochs.log." >&2
    exit 1
fi
