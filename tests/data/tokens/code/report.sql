WITH monthly AS (
    SELECT date_trunc('month', o.created_at) AS month,
           c.region,
           COUNT(DISTINCT o.customer_id)     AS buyers,
           SUM(o.total_cents) / 100.0        AS revenue
    FROM orders AS o
    JOIN customers AS c ON c.id = o.customer_id
    WHERE o.status <> 'cancelled'
      AND o.created_at >= now() - INTERVAL '12 months'
    GROUP BY 1, 2
)
SELECT month, region, buyers, revenue,
       revenue - LAG(revenue) OVER (PARTITION BY region ORDER BY month) AS change,
       ROUND(revenue / NULLIF(buyers, 0), 2)                            AS per_buyer
FROM monthly
ORDER BY month DESC, revenue DESC
LIMIT 200;

CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_customer_created_idx
    ON orders (customer_id, created_at DESC) WHERE status <> 'cancelled';

UPDATE customers SET last_seen_at = sub.seen, updated_at = now()
FROM (SELECT customer_id, MAX(created_at) AS seen FROM orders GROUP BY customer_id) AS sub
WHERE customers.id = sub.customer_id AND customers.last_seen_at IS DISTINCT FROM sub.seen;
