// The way in: from QEMU or another PVH loader in 32-bit mode, or from the former kernel in 64-bit mode. Both end in
// metal_start(boot_info, start_info) with this image's own tables and stack, because the former image is forgotten.
// Then the gates of the interrupt descriptor table.

        .set    CODE, 0x08
        .set    DATA, 0x10
        .set    EFER, 0xC0000080
        .set    HUGE, 0x83                      // present, writable, 2 MiB
        .set    CR0_BITS, 0x80010013            // PG WP ET MP PE; EM and TS clear: SSE is ordinary code here
        .set    CR4_BITS, 0x620                 // PAE OSFXSR OSXMMEXCPT
        .set    EFER_BITS, 0x900                // LME NXE

        // Where a PVH loader jumps to. Notes are aligned to 4, and so must be the program header.
        .section .note.Xen, "a", @note
        .p2align 2
        .long   4, 8, 18                        // XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .quad   metal_pvh_entry

        .section .text.entry, "ax", @progbits
        .code32
        .globl  metal_pvh_entry
metal_pvh_entry:                                // EBX: hvm_start_info; nothing else is promised, not even a stack
        cli
        cld
        lgdt    metal_gdt_pointer
        movl    $CR4_BITS, %eax
        movl    %eax, %cr4
        movl    $metal_pml4, %eax
        movl    %eax, %cr3
        movl    $EFER, %ecx
        movl    $EFER_BITS, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $CR0_BITS, %eax
        movl    %eax, %cr0
        ljmp    $CODE, $1f
        .code64
1:      xorl    %r12d, %r12d
        movl    %ebx, %r13d
        jmp     2f

        .globl  metal_entry                     // RDI: boot information, as the former kernel's machine left it
metal_entry:
        cli
        cld
        movq    %rdi, %r12
        xorl    %r13d, %r13d
        lgdt    metal_gdt_pointer
        movl    $metal_pml4, %eax
        movq    %rax, %cr3
2:      movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        movl    $metal_bss_begin, %edi          // no loader is trusted with it
        movl    $metal_bss_end, %ecx
        subl    %edi, %ecx
        rep stosb
        movl    $metal_stack_end, %esp
        pushq   $CODE                           // CS is still that of whoever came here
        pushq   $3f
        lretq
3:      xorl    %ebp, %ebp
        movq    %r12, %rdi
        movq    %r13, %rsi
        call    metal_start
4:      cli
        hlt
        jmp     4b

        // metal_leave(entry, boot_info): to the next image. Everything but the two images may be gone already.
        .globl  metal_leave
metal_leave:
        movq    %rdi, %rax
        movq    %rsi, %rdi
        jmp     *%rax

// --- gates ---------------------------------------------------------------------------------------------------------

        .text
        .altmacro
        // Exceptions have numbers below 32; 8, 10-14, 17, 21, 29 and 30 push an error code themselves.
        .macro  gate n
        .p2align 4
        .if     \n < 32
        .if     !((0x60227D00 >> \n) & 1)
        pushq   $0
        .endif
        pushq   $\n
        jmp     metal_exception_gate
        .else
        pushq   $\n
        jmp     metal_interrupt_gate
        .endif
        .endm

        .p2align 4
        .globl  metal_gates                     // 256 of them, 16 bytes each
metal_gates:
        .set    i, 0
        .rept   256
        gate    %i
        .set    i, i + 1
        .endr

metal_exception_gate:
        movq    %rsp, %rdi
        andq    $-16, %rsp
        call    metal_exception                 // does not return

        // Only notes the vector: sinks are called later, when nobody holds a lock. No C++, so no registers to keep.
metal_interrupt_gate:
        pushq   %rax
        movq    8(%rsp), %rax
        movb    $1, metal_pending(%rax)
        movq    metal_end_of_interrupt, %rax
        movl    $0, (%rax)
        popq    %rax
        addq    $8, %rsp
        iretq

// --- tables --------------------------------------------------------------------------------------------------------

        .data
        .p2align 12
        // Low: the two image slots, where they are; nothing below 2 MiB, so that a null pointer faults. High: all of
        // the physical address space below 4 GiB, more of it later (paging.cc), never executable.
        .globl  metal_pml4
metal_pml4:
        .quad   metal_low_pdpt + 3
        .fill   255, 8, 0
        .quad   metal_direct_pdpt + 3
        .fill   255, 8, 0
metal_low_pdpt:
        .quad   metal_low_pd + 3
        .fill   511, 8, 0
        .globl  metal_low_pd
metal_low_pd:
        .quad   0
        .set    i, 1
        .rept   15
        .quad   (i << 21) + HUGE
        .set    i, i + 1
        .endr
        .fill   496, 8, 0
        .globl  metal_direct_pdpt
metal_direct_pdpt:
        .quad   metal_direct_pd + 0x0003
        .quad   metal_direct_pd + 0x1003
        .quad   metal_direct_pd + 0x2003
        .quad   metal_direct_pd + 0x3003
        .fill   508, 8, 0
        .globl  metal_direct_pd
metal_direct_pd:
        .set    i, 0
        .rept   2048
        .quad   (i << 21) + HUGE + (1 << 63)
        .set    i, i + 1
        .endr

        .p2align 3
        .globl  metal_gdt
metal_gdt:
        .quad   0
        .quad   0x00AF9A000000FFFF              // code, 64-bit
        .quad   0x00CF92000000FFFF              // data
        .quad   0, 0                            // task state, filled in by cpu.cc
metal_gdt_pointer:
        .word   metal_gdt_pointer - metal_gdt - 1
        .quad   metal_gdt

        .bss
        .p2align 12
        .globl  metal_stack, metal_stack_end
metal_stack:
        .skip   128 << 10
metal_stack_end:

        .section .note.GNU-stack, "", @progbits
