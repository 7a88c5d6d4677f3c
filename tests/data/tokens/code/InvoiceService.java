package com.example.billing;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.time.LocalDate;
import java.util.List;
import java.util.Optional;
import java.util.stream.Collectors;

public final class InvoiceService {

    private static final BigDecimal VAT_RATE = new BigDecimal("0.19");

    private final InvoiceRepository repository;
    private final EventPublisher publisher;

    public InvoiceService(InvoiceRepository repository, EventPublisher publisher) {
        this.repository = repository;
        this.publisher = publisher;
    }

    /**
     * Closes every open invoice that was due before the given date.
     *
     * @return the invoices that were closed, oldest first
     */
    public List<Invoice> closeOverdue(LocalDate before) {
        return repository.findOpen().stream()
                .filter(invoice -> invoice.dueDate().isBefore(before))
                .sorted((left, right) -> left.dueDate().compareTo(right.dueDate()))
                .map(this::close)
                .collect(Collectors.toList());
    }

    private Invoice close(Invoice invoice) {
        BigDecimal net = invoice.lines().stream()
                .map(line -> line.unitPrice().multiply(BigDecimal.valueOf(line.quantity())))
                .reduce(BigDecimal.ZERO, BigDecimal::add);
        BigDecimal gross = net.add(net.multiply(VAT_RATE)).setScale(2, RoundingMode.HALF_UP);
        Invoice closed = invoice.withTotal(gross).withStatus(Status.CLOSED);
        repository.save(closed);
        Optional.ofNullable(invoice.customerEmail()).ifPresent(email -> publisher.publish(new InvoiceClosed(closed.id(), email)));
        return closed;
    }
}
