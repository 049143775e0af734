# A text that every Debian and Ubuntu can get; sourced by the programs that need one. CACHE must be set.
source scripts/lib/apt.sh

# A book with chapters in plain HTML, in Debian and in Ubuntu.
BOOK_PACKAGE=debian-handbook
BOOK_PAGES=usr/share/doc/debian-handbook/html/en-US
BOOK_TITLE="The Debian Administrator's Handbook (package $BOOK_PACKAGE), every fifth page for evaluation"

# get_book: makes $CACHE/book, the pages of the book, from the installed package or from the package itself.
get_book() {
    local book=$CACHE/book problem deb
    [[ -d /$BOOK_PAGES ]] && { rm -rf "$book"; cp -rL "/$BOOK_PAGES" "$book"; return; }
    [[ -d $book ]] && return
    command -v apt-get >/dev/null || { echo "no text: neither ../shared/data nor apt-get is here: use --text FILE" >&2; return 2; }
    rm -rf "$CACHE/deb"
    mkdir -p "$CACHE/deb"
    # Fetched and unpacked here, not installed: containers often leave documentation out when installing.
    if ! (cd "$CACHE/deb" && apt-get -q download "$BOOK_PACKAGE") >/dev/null 2>&1; then
        problem=$(apt_problem "$BOOK_PACKAGE")
        [[ -z $problem ]] || { echo "$problem, or use --text FILE" >&2; return 2; }
        (apt_update && cd "$CACHE/deb" && apt-get -q download "$BOOK_PACKAGE") >/dev/null ||
            { echo "the package $BOOK_PACKAGE could not be downloaded: use --text FILE" >&2; return 2; }
    fi
    deb=$(find "$CACHE/deb" -name '*.deb')
    mkdir "$CACHE/deb/files"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$CACHE/deb/files" --wildcards "./$BOOK_PAGES/*.html"
    mv "$CACHE/deb/files/$BOOK_PAGES" "$book"
    rm -rf "$CACHE/deb"
}
