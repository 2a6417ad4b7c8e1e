# html.sed: what pandoc's HTML needs mended before it is a page.

# Its links from code lines to themselves have no text: keep them from screen readers.
s|<a href="(#[^"]*)"></a>|<a href="\1" aria-hidden="true" tabindex="-1"></a>|g

# Two of its roles have since been withdrawn from the standard.
s/ *role="doc-endnote"//
s/ *role="doc-biblioentry"//

# It lets all brackets stretch, and some fonts set stretched ones apart even around one letter. Those
# around nothing tall (no fractions, sums, roots) need not stretch; from the inside out.
:inner
s#(<mo stretchy=")true(" form="prefix">[([]</mo>)((</?m(i|n|sub|sup|subsup|row|text|over)( [^>]*)?>[^<]*|<mo( [^>]*)?>[^][()<]+</mo>|<mo stretchy="false"[^>]*>[][()]</mo>)*)(<mo stretchy=")true(" form="postfix">[])]</mo>)#\1false\2\3\8false\9#
t inner
