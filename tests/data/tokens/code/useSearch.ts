import { useCallback, useEffect, useRef, useState } from "react";

export interface SearchResult<T> {
  items: readonly T[];
  total: number;
  nextCursor?: string;
}

type Status = "idle" | "loading" | "error" | "done";

interface Options {
  debounceMs?: number;
  minLength?: number;
  onError?: (error: unknown) => void;
}

export function useSearch<T>(
  fetchPage: (query: string, signal: AbortSignal) => Promise<SearchResult<T>>,
  { debounceMs = 250, minLength = 2, onError }: Options = {},
) {
  const [query, setQuery] = useState("");
  const [status, setStatus] = useState<Status>("idle");
  const [result, setResult] = useState<SearchResult<T> | null>(null);
  const controller = useRef<AbortController | null>(null);

  useEffect(() => {
    if (query.trim().length < minLength) {
      setResult(null);
      setStatus("idle");
      return;
    }
    const timer = setTimeout(async () => {
      controller.current?.abort();
      const current = (controller.current = new AbortController());
      setStatus("loading");
      try {
        const page = await fetchPage(query, current.signal);
        if (!current.signal.aborted) {
          setResult(page);
          setStatus("done");
        }
      } catch (error) {
        if (!current.signal.aborted) {
          setStatus("error");
          onError?.(error);
        }
      }
    }, debounceMs);
    return () => clearTimeout(timer);
  }, [query, minLength, debounceMs, fetchPage, onError]);

  const reset = useCallback(() => setQuery(""), []);
  return { query, setQuery, status, result, reset } as const;
}
